import torch

from atrous.model.backbone.small import Small


def test_it_is_small_and_of_stride_8():
    small = Small()
    assert sum(parameter.numel() for parameter in small.parameters()) < 2_000_000
    assert small(torch.zeros(1, 3, 129, 129)).last.shape == (1, small.channels[-1], 17, 17)
    assert small.stride == 8


def test_its_norms_are_trained():
    small = Small(width=8).train()
    small(torch.randn(2, 3, 33, 33)).last.square().mean().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    assert small.get_buffer("stem.0.norm.num_batches_tracked") == 1
