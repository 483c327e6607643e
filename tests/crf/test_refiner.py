"""The promises of a refiner, kept by ours and by one from outside."""

import copy
import dataclasses
import json
import pickle
import re
from collections.abc import Callable

import hydra.utils
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.nn.functional import avg_pool2d

from atrous.config.place import CONF
from atrous.crf import DenseCRF, GridCRF, Refiner, Superpixels

SHIPPED = sorted(path.stem for path in (CONF / "crf").glob("*.yaml"))


def shipped(name: str) -> Refiner:
    """The refiner of conf/crf/NAME.yaml."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("refine", [f"crf={name}"]).crf
    return hydra.utils.instantiate({key: value for key, value in config.items() if key != "validate"})


class Smoothing(Refiner):
    """The mean over a square window of odd size: a refiner that needs nothing of ours."""

    def __init__(self, window: int):
        self.window = window

    def __call__(self, image: Tensor, probs: Tensor) -> Tensor:
        probs = probs.to(torch.promote_types(probs.dtype, torch.float32))
        return avg_pool2d(probs, self.window, stride=1, padding=self.window // 2, count_include_pad=False)

    @property
    def cache_key(self) -> str:
        return json.dumps({"refiner": "smoothing", "window": self.window})

    @property
    def name(self) -> str:
        return f"smoothing-{self.window}"

    @property
    def text(self) -> str:
        return f"the mean over {self.window} x {self.window} pixels"


MAKERS: dict[str, Callable[[], Refiner]] = {
    **{name: lambda name=name: shipped(name) for name in SHIPPED},  # type: ignore[misc]
    "iterations": lambda: DenseCRF(5, 50, 10, 3, 3, iterations=0),
    "costs": lambda: DenseCRF(5, 50, 10, 3, 3, compatibility=1 - torch.eye(4)),
    "grid, 8 neighbours": lambda: GridCRF(5, 10, 3, neighbours=8),
    "grid, iterations": lambda: GridCRF(5, 10, 3, iterations=0),
    "superpixels, few": lambda: Superpixels(12),
    "superpixels, compact": lambda: Superpixels(12, compactness=30),
    "outside": lambda: Smoothing(5),
    "outside, wider": lambda: Smoothing(7),
}


@pytest.fixture(params=MAKERS)
def make(request) -> Callable[[], Refiner]:
    return MAKERS[request.param]


def test_probabilities_come_back_as_probabilities_of_the_same_shape(make, natural, smooth):
    image, probs = natural(2, 21, 34), smooth(2, 4, 21, 34)
    refined = make()(image, probs)
    assert refined.shape == probs.shape
    assert refined.dtype == torch.float32
    assert refined.device == probs.device
    assert refined.min() >= 0
    torch.testing.assert_close(refined.sum(1), torch.ones(2, 21, 34))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_result_is_float32_at_least(make, natural, smooth, dtype):
    refined = make()(natural(1, 9, 12), smooth(1, 4, 9, 12).to(dtype))
    assert refined.dtype == torch.promote_types(dtype, torch.float32)


def test_its_arguments_stay_as_they_are(make, natural, smooth):
    image, probs = natural(1, 9, 12), smooth(1, 4, 9, 12)
    before = image.clone(), probs.clone()
    make()(image, probs)
    assert torch.equal(image, before[0])
    assert torch.equal(probs, before[1])


def test_a_batch_is_its_pictures_one_by_one_whatever_came_before(make, natural, smooth):
    image, probs, refiner = natural(3, 12, 15), smooth(3, 4, 12, 15), make()
    together = refiner(image, probs)
    for b in (2, 0, 1):
        torch.testing.assert_close(refiner(image[b : b + 1], probs[b : b + 1]), together[b : b + 1])


def test_a_pickled_copy_computes_the_same(make, natural, smooth):
    image, probs, refiner = natural(1, 12, 15), smooth(1, 4, 12, 15), make()
    for other in (pickle.loads(pickle.dumps(refiner)), copy.deepcopy(refiner), make()):
        assert (other.cache_key, other.name, other.text) == (refiner.cache_key, refiner.name, refiner.text)
        torch.testing.assert_close(other(image, probs), refiner(image, probs))


def test_those_of_one_shared_key_give_together_what_each_gives_alone(make, natural, smooth):
    image, probs, refiner = natural(1, 12, 15), smooth(1, 4, 12, 15), make()
    group = [refiner, make()]
    if isinstance(refiner, DenseCRF):
        group.append(dataclasses.replace(refiner, w1=1.5, w2=0.5))
    assert len({each.shared_key for each in group}) == 1
    for together, each in zip(refiner.refine_each(group, image, probs), group, strict=True):
        torch.testing.assert_close(together, each(image, probs))


def test_no_two_that_share_nothing_have_one_shared_key():
    shipped_ones = [shipped(name) for name in SHIPPED]
    assert len({refiner.shared_key for refiner in shipped_ones}) == len(shipped_ones)


def test_its_stages_are_refiners_of_which_the_last_is_itself(make, natural, smooth):
    image, probs, refiner = natural(1, 9, 12), smooth(1, 4, 9, 12), make()
    stages = refiner.stages()
    assert list(stages.values())[-1] is refiner
    assert len({stage.cache_key for stage in stages.values()}) == len(stages)
    for stage in stages.values():
        assert stage(image, probs).shape == probs.shape


def test_a_cache_key_is_a_json_object_and_a_name_fits_a_folder(make):
    refiner = make()
    assert isinstance(json.loads(refiner.cache_key), dict)
    assert re.fullmatch(r"[A-Za-z0-9+._-]{1,64}", refiner.name)
    assert refiner.text
    assert "\n" not in refiner.text


def test_no_two_have_the_same_cache_key_or_name():
    refiners = [make() for make in MAKERS.values()]
    assert len({refiner.cache_key for refiner in refiners}) == len(refiners)
    assert len({refiner.name for refiner in refiners}) == len(refiners)


def test_a_refiner_without_a_cache_key_can_not_be_made():
    class Nameless(Refiner):
        def __call__(self, image: Tensor, probs: Tensor) -> Tensor:
            return probs

    with pytest.raises(TypeError, match="cache_key"):
        Nameless()  # type: ignore[abstract]
