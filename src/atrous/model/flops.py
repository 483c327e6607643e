"""Count the floating-point operations of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from atrous.model.crf import RecurrentCRF
from atrous.model.head import ASPP


def flops(network: nn.Module, size: tuple[int, int]) -> int:
    """Return the FLOPs of a forward pass over one picture (height, width); a multiplication and an addition are 2.

    `network` is on the meta device, where shapes cost neither memory nor time. A CRF behind it is left out: its
    lattice, and with that its work, is different for each picture.
    """
    inner = network.network if isinstance(network, RecurrentCRF) else network
    return count_flops(inner, size)[0].get_total_flops()


def count_flops(network: nn.Module, size: tuple[int, int]) -> tuple[FlopCounterMode, Tensor]:
    """Run a picture of this size through `network`; return the FLOPs of each of its modules, and the logits."""
    for module in network.modules():
        if isinstance(module, ASPP):
            module.fused = False  # as many operations, but not layer by layer
    image = torch.empty(1, 3, *size, dtype=torch.uint8, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        logits = network(image)
    return counter, logits
