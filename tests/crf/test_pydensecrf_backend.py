"""The native backend against pydensecrf, the reference of the field."""

import sys

import pytest
import torch

from atrous.crf import DenseCRF

V1, V2 = (5, 50, 10, 3, 3), (4, 67, 3, 3, 1)
BOTH = pytest.mark.parametrize("normalization", ["symmetric", "after"])
PARAMETERS = pytest.mark.parametrize("parameters", [V1, V2])


@pytest.fixture
def installed():
    pytest.importorskip("pydensecrf", reason="pydensecrf2 is not installed (`make setup` builds it where it can)")


def _compare(image, probs, parameters, **options):
    ours = DenseCRF(*parameters, **options)(image, probs)
    reference = DenseCRF(*parameters, **options | {"backend": "pydensecrf"})(image, probs)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-4)
    assert (ours.argmax(1) == reference.argmax(1)).float().mean() >= 0.9999


@BOTH
@PARAMETERS
@pytest.mark.parametrize(
    "shape", [(2, 60, 80), (21, 47, 53), (60, 31, 40), (3, 1, 40), (3, 40, 1), (2, 1, 1), (1, 9, 7)]
)
def test_native_is_pydensecrf(installed, natural, smooth, shape, parameters, normalization):
    K, H, W = shape
    _compare(natural(1, H, W), smooth(1, K, H, W), parameters, normalization=normalization)


@BOTH
@PARAMETERS
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_native_is_pydensecrf_on_one_colour(installed, smooth, grey, parameters, normalization):
    image = torch.full((1, 3, 40, 52), grey, dtype=torch.uint8)
    _compare(image, smooth(1, 5, 40, 52), parameters, normalization=normalization)


@BOTH
def test_native_is_pydensecrf_on_noise(installed, smooth, normalization):
    image = torch.randint(0, 256, (1, 3, 40, 52), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    _compare(image, smooth(1, 5, 40, 52), V2, normalization=normalization)


@BOTH
def test_native_is_pydensecrf_with_a_cost_for_each_two_labels(installed, natural, smooth, normalization):
    cost = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    image, probs = natural(1, 40, 52), smooth(1, 5, 40, 52)
    _compare(image, probs, V1, normalization=normalization, compatibility=cost + cost.t())


# Both of the papers', each with one normalisation: above all four are compared on small pictures.
@pytest.mark.parametrize(("parameters", "normalization"), [(V1, "after"), (V2, "symmetric")], ids=["v1", "v2"])
def test_native_is_pydensecrf_at_the_size_of_a_photograph(installed, natural, smooth, parameters, normalization):
    _compare(natural(1, 375, 500), smooth(1, 21, 375, 500), parameters, normalization=normalization)


@pytest.mark.slow
def test_processes_give_what_one_gives(installed, natural, smooth):
    image, probs = natural(3, 40, 52), smooth(3, 5, 40, 52)
    several, one = (DenseCRF(*V1, backend="pydensecrf", processes=n)(image, probs) for n in (2, 1))
    assert torch.equal(several, one)


def test_where_it_is_missing_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.raises(ValueError, match="make setup"):
        DenseCRF(*V1, backend="pydensecrf")


def test_what_pydensecrf_can_not_do_is_refused(installed, natural, smooth):
    with pytest.raises(ValueError, match="symmetric"):
        DenseCRF(*V1, backend="pydensecrf", compatibility=torch.tensor([[0.0, 1], [2, 0]]))
    with pytest.raises(ValueError, match="`w1`"):
        DenseCRF(torch.ones(3), *V1[1:], backend="pydensecrf")
    with pytest.raises(ValueError, match="gradient"):
        DenseCRF(*V1, backend="pydensecrf")(natural(1, 9, 9), smooth(1, 3, 9, 9).requires_grad_())
