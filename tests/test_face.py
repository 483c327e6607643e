"""The names that `import atrous` offers: network and load."""

import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import MINIATURE, configure, weights
from warm import cold

import atrous
from atrous.config.build import build_network
from atrous.crf import DenseCRF
from atrous.inference.segmenter import Segmenter

MODEL = [text for text in MINIATURE if text.startswith(("experiment", "model"))]


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    return shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "default" / "seed0")


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)


# ---- network --------------------------------------------------------------------------------------------------------
def test_importing_atrous_imports_nothing_heavy():
    code = "import sys, atrous; assert not {'torch', 'numpy', 'hydra', 'lightning', 'PIL'} & set(sys.modules)"
    with cold():
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_network_gives_logits_at_stride_8_for_any_picture():
    network = atrous.network("model/backbone=vgg16", "model.backbone.width=4", "model/head=aspp_s", num_classes=5)
    image = torch.randint(0, 256, (2, 3, 65, 50), dtype=torch.uint8)
    logits = network.eval()(image)
    assert logits.shape == (2, 5, 9, 8)
    torch.testing.assert_close(network(image.float()), logits)


def test_network_is_what_the_command_line_builds():
    overrides = [*MODEL, "model/head=aspp_l", "model/multiscale=inputs"]
    torch.manual_seed(0)
    expected = build_network(configure(*overrides).model, 3).state_dict()
    torch.manual_seed(0)
    state = atrous.network(*overrides, num_classes=3).state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_the_default_is_21_classes_and_largefov_has_20_505_429_parameters():
    with torch.device("meta"):
        network = atrous.network("model/backbone=vgg16", "model/head=largefov", "model/multiscale=null")
    assert sum(p.numel() for p in network.parameters()) == 20_505_429


def test_a_mistake_in_network_is_told_as_on_the_command_line():
    with pytest.raises(ValueError, match="did you mean model/head=aspp_l"):
        atrous.network("model/head=aspl")


# ---- load -----------------------------------------------------------------------------------------------------------
def test_segment_is_the_largest_score_at_the_pictures_own_size(folder, image):
    network: Any = atrous.network(*MODEL, num_classes=len(atrous.load(folder).classes)).eval()
    network.load_state_dict({name.removeprefix("network."): x for name, x in weights(folder).items()})
    picture = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.inference_mode():
        probs = network.zoom(network(picture), (37, 50)).softmax(1)[0].numpy()
    segmenter = atrous.load(folder)
    assert segmenter.segment(image).dtype == np.uint8
    assert (segmenter.segment(image) == probs.argmax(0)).all()
    np.testing.assert_allclose(segmenter.probs(image), probs, atol=1e-5)


def test_the_weights_of_the_best_validation_work_too(folder, image):
    assert atrous.load(folder / "checkpoint" / "best.ckpt").segment(image).shape == image.shape[:2]


def test_a_picture_may_come_as_a_path_as_pil_or_as_an_array(folder, image, tmp_path):
    segmenter = atrous.load(folder / "checkpoint" / "last.ckpt")
    Image.fromarray(image).save(tmp_path / "picture.png")
    expected = segmenter.probs(image)
    for form in (str(tmp_path / "picture.png"), tmp_path / "picture.png", Image.fromarray(image).convert("RGBA")):
        assert (segmenter.probs(form) == expected).all()
    assert (segmenter.probs(image[:, ::-1]) == segmenter.probs(image[:, ::-1].copy())).all()  # a view will do


def test_classes_and_palette_are_the_datasets(folder):
    from atrous.data.shapes import Shapes

    labels, segmenter = Shapes().labels, atrous.load(str(folder))
    assert segmenter.classes == labels.names
    assert (segmenter.palette == labels.palette).all()


@pytest.mark.parametrize(
    ("remove", "crf"),
    [
        (
            False,
            DenseCRF(w1=10, sigma_alpha=20, sigma_beta=10, w2=3, sigma_gamma=1),
        ),  # crf=shapes, its own
        (True, DenseCRF(w1=4, sigma_alpha=67, sigma_beta=3, w2=3, sigma_gamma=1)),  # v2, where it has none
    ],
    ids=["its own", "none"],
)
def test_crf_is_the_runs_or_else_v2s(remove, crf, folder, image):
    segmenter = atrous.load(folder)
    if remove:
        segmenter.info.config["crf"] = None
    probs = torch.from_numpy(segmenter.probs(image))[None]
    expected = crf(torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(), probs)[0].numpy()
    np.testing.assert_allclose(segmenter.probs(image, crf=True), expected, atol=1e-5)
    assert (segmenter.segment(image, crf=True) == expected.argmax(0)).all()


def test_loading_draws_no_random_numbers(folder):
    before = torch.get_rng_state()
    atrous.load(folder)
    assert torch.equal(torch.get_rng_state(), before)


# ---- what can't be loaded -------------------------------------------------------------------------------------------
class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def written(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("weights.ckpt", {"state_dict": {"conv.weight": torch.zeros(1)}}, "was not saved by atrous"),
        ("weights.ckpt", [1, 2], "holds no tensors by name but a list"),
        ("weights.ckpt", b"not a checkpoint", "is damaged, or only a part of a file, or no file of weights"),
        ("weights.ckpt", {"state_dict": Evil()}, "it wants to run posix.system"),
        ("weights.safetensors", b"x" * 50, "is damaged, or only a part of a file"),
        ("program.pt2", b"x" * 50, "is no torch.export file"),
        ("picture.jpg", b"", "is none of what can be loaded: a run folder, a checkpoint"),
    ],
)
def test_a_foreign_file_is_refused_in_one_message(name, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        atrous.load(written(tmp_path / name, content))
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "evil").exists()


def test_a_missing_path_and_a_folder_without_a_run_are_told(tmp_path, folder):
    with pytest.raises(ValueError, match=r"there is no .*nowhere"):
        atrous.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no checkpoint/last\.ckpt: is it the folder of a run"):
        atrous.load(tmp_path)
    with pytest.raises(ValueError, match=r"did you mean .*seed0"):
        atrous.load(folder.parent)


def changed(folder, path, **model):
    saved = torch.load(folder / "checkpoint" / "last.ckpt", weights_only=True)
    saved["atrous"]["config"]["model"] |= model
    torch.save(saved, path)
    return path


@pytest.mark.parametrize("target", ["os.system", "atrous.run.folder.subprocess.run", "atrous.model.network.torch.load"])
def test_a_configuration_that_names_more_than_a_network_is_not_built(target, folder, tmp_path):
    path = changed(folder, tmp_path / "x.ckpt", backbone={"_target_": target, "command": "touch evil"})
    with pytest.raises(ValueError, match=r"is no class of atrous\.model: trust=True"):
        atrous.load(path)


def test_a_network_of_ones_own_is_built_on_trust(folder, tmp_path):
    saved = torch.load(folder / "checkpoint" / "last.ckpt", weights_only=True)["atrous"]["config"]["model"]
    path = changed(folder, tmp_path / "x.ckpt", backbone=saved["backbone"] | {"_target_": f"{__name__}.Mine"})
    with pytest.raises(ValueError, match="trust=True"):
        atrous.load(path)
    assert isinstance(atrous.load(path, trust=True), Segmenter)


def Mine(**arguments):
    from atrous.model.backbone.small import Small

    return Small(**arguments)


def test_weights_that_do_not_fit_their_configuration_are_told(folder, tmp_path):
    saved = torch.load(folder / "checkpoint" / "last.ckpt", weights_only=True)["atrous"]["config"]["model"]
    path = changed(folder, tmp_path / "x.ckpt", backbone=saved["backbone"] | {"width": 16})
    with pytest.raises(ValueError, match="holds other weights than its own configuration asks for"):
        atrous.load(path)


def test_a_program_with_a_pickle_inside_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("x.pt2", "w") as file:
        file.writestr("x/extra/atrous.json", "{}")
        file.writestr("x/data/sample_inputs/model.pt", pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"sample_inputs/model\.pt, which could run any code"):
        atrous.load("x.pt2")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("form", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), torch.zeros(3, 4, 4), None])
def test_what_is_no_picture_is_told(form, folder):
    with pytest.raises(ValueError, match=r"`image` must be a path, a PIL image, or an array \(H, W, 3\) of uint8"):
        atrous.load(folder).segment(form)


def test_a_device_that_is_not_there_is_told(folder):
    with pytest.raises(ValueError, match="`device=warp` can't be used"):
        atrous.load(folder, device="warp")
