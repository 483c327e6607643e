"""The native mean field against its definition, its derivatives, and another device."""

import pytest
import torch

from atrous.crf import DenseCRF, exact, native

BOTH = pytest.mark.parametrize("normalization", ["symmetric", "after"])


@BOTH
@pytest.mark.parametrize("compatibility", [None, torch.tensor([[0, 1, 2], [0.5, 0, 1], [3, -1, 0.2]]).double()])
def test_with_the_exact_filter_it_is_the_brute_force_mean_field(natural, smooth, normalization, compatibility):
    image, probs = natural(1, 11, 13), smooth(1, 3, 11, 13).double()
    crf = DenseCRF(5, 8, 20, 3, 2, normalization=normalization, compatibility=compatibility)
    bilateral, spatial = exact.kernels(crf, image[0])
    unary = -probs.log()[0].flatten(1).t()
    kernels = [(5.0, lambda Q: bilateral @ Q), (3.0, lambda Q: spatial @ Q)]
    Q = native.mean_field(unary, kernels, compatibility, 10)
    brute = exact.refine(crf, image, probs)[0].flatten(1).t()
    torch.testing.assert_close(Q, brute, rtol=0, atol=1e-6)


@BOTH
def test_it_is_the_definition_within_the_error_of_the_lattice(natural, smooth, normalization):
    # The lattice blurs by (½, 1, ½) where the Gaussian has a tail, and only between points that exist: its filter is
    # off by some percent, and Q by 0.005 on average. Where two labels are about as likely as each other, mean field
    # takes one of them whole, so that one value in a hundred differs by more than 0.1.
    image, probs = natural(2, 32, 40), smooth(2, 4, 32, 40).double()
    crf = DenseCRF(4, 20, 15, 3, 2, normalization=normalization)
    defined = exact.refine(crf, image, probs)
    difference, moved = (crf(image, probs) - defined).abs(), (defined - probs).abs()
    assert difference.mean() < 0.01 < 0.1 < moved.mean()
    assert (difference < 0.1).double().mean() > 0.98


@BOTH
@pytest.mark.parametrize("per_label", [False, True])
def test_it_has_the_derivatives_of_its_inputs(natural, smooth, normalization, per_label):
    image, probs = natural(1, 4, 5), smooth(1, 3, 4, 5).double().requires_grad_()
    w1, w2 = (torch.tensor([w] * 3 if per_label else w).double().requires_grad_() for w in (2.0, 1.0))
    compatibility = torch.rand(3, 3, generator=torch.Generator().manual_seed(0)).double().requires_grad_()

    def refine(probs, w1, w2, compatibility=None):
        return DenseCRF(w1, 3, 60, w2, 1.5, 3, normalization, compatibility=compatibility)(image, probs)

    assert torch.autograd.gradcheck(refine, (probs, w1, w2))
    assert torch.autograd.gradcheck(refine, (probs, w1, w2, compatibility))


@pytest.mark.parametrize("w1", [5.0, 40.0, torch.tensor(5.0), torch.tensor([5.0, 1, 2])])
@pytest.mark.parametrize("compatibility", [None, torch.rand(3, 3, generator=torch.Generator().manual_seed(0))])
def test_in_place_and_by_blocks_it_is_the_same(natural, smooth, w1, compatibility):
    image, unary = natural(1, 20, 31), -smooth(1, 3, 20, 31)[0].flatten(1).t().log()
    bilateral = native.bilateral_lattice(image, 50, 10, "symmetric", torch.float32)
    spatial = native.spatial_lattice((1, 20, 31), 3, "symmetric", torch.float32, torch.device("cpu"))
    plain = native.mean_field(unary, [(w1, bilateral.filter), (3, spatial.filter)], compatibility, 10)
    blocks = native.mean_field_in_place(unary, [(w1, bilateral), (3, spatial)], compatibility, 10, rows=100)
    torch.testing.assert_close(blocks, plain, rtol=0, atol=1e-4)


def test_a_lattice_kept_from_validation_serves_in_training(natural, smooth):
    native.spatial_lattice.cache_clear()
    image, probs = natural(1, 12, 15), smooth(1, 3, 12, 15)
    with torch.inference_mode():
        expected = DenseCRF(5, 50, 10, 3, 3)(image, probs)
    w1 = torch.tensor(5.0, requires_grad=True)
    refined = DenseCRF(w1, 50, 10, 3, 3)(image, probs)
    refined[:, 0].sum().backward()
    torch.testing.assert_close(refined, expected.clone())
    assert w1.grad is not None
    assert w1.grad.isfinite()


def test_it_has_second_derivatives(natural, smooth):
    image, probs = natural(1, 3, 4), smooth(1, 2, 3, 4).double().requires_grad_()
    w1 = torch.tensor(2.0).double().requires_grad_()
    refine = lambda probs, w1: DenseCRF(w1, 3, 60, 1, 1.5, 2, "after")(image, probs)  # noqa: E731
    assert torch.autograd.gradgradcheck(refine, (probs, w1))


def test_the_spatial_lattice_of_a_size_is_built_once(natural, smooth):
    native.spatial_lattice.cache_clear()
    crf = DenseCRF(5, 50, 10, 3, 3)
    for seed in range(3):
        crf(natural(2, 12, 15, seed), smooth(2, 3, 12, 15, seed))
    assert native.spatial_lattice.cache_info().misses == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@BOTH
def test_the_gpu_gives_what_the_cpu_gives(natural, smooth, normalization):
    image, probs = natural(3, 60, 75), smooth(3, 21, 60, 75)
    for parameters in ((5, 50, 10, 3, 3), (4, 67, 3, 3, 1)):
        crf = DenseCRF(*parameters, normalization=normalization)
        torch.testing.assert_close(crf(image.cuda(), probs.cuda()).cpu(), crf(image, probs), rtol=0, atol=1e-4)
