"""`atrous describe`: a network's layers, parameters, FLOPs, sizes, and what its logits see of a picture."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from rich.table import Table
from torch import nn

from atrous.config.build import build_network
from atrous.console import text
from atrous.disk import write_whole
from atrous.draw.receptive_field import draw_receptive_fields
from atrous.model.crf import RecurrentCRF
from atrous.model.describe import (
    LayerDescription,
    NetworkDescription,
    describe_network,
    mean_effective_receptive_field,
    merge_repeated_blocks,
    without_crf,
)

log = logging.getLogger("atrous")

DRAWS = 3
"""The number of random networks over which the effective receptive field is averaged."""


def describe(cfg: DictConfig) -> NetworkDescription:
    """Print the table; with `out` also draw the receptive fields there."""
    size = picture_size(cfg.size)
    if cfg.num_classes < 1:
        raise ValueError(f"`num_classes` must be 1 or more (got {cfg.num_classes})")
    with torch.device("meta"):  # shapes and counts need neither memory nor arithmetic
        network: Any = build_network(cfg.model, cfg.num_classes).eval()
    description = describe_network(network, size)
    log.info(table(description.layers))
    log.info("\n".join(f"{name:22}{value}" for name, value in summary(network, description, size).items()))
    if cfg.out is not None:
        path = Path(cfg.out).expanduser() / "receptive_field.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        step = 4 * network.stride  # the middle is a logit's, also in a pyramid's scales
        side = max(size) + -(max(size) - 1) % step
        effective = mean_effective_receptive_field(random_networks(cfg), side)
        write_whole(path, draw_receptive_fields(description.receptive_fields, effective, DRAWS))
        log.info(f"{'drawn':22}{path}")
    return description


def picture_size(value: Any) -> tuple[int, int]:
    """Return (height, width) from one number of pixels or two."""
    size = tuple(value) if isinstance(value, (list, tuple, ListConfig)) else (value, value)
    if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f"`size` must be a number of pixels, or [height,width] (got {value})")
    return size


def random_networks(cfg: DictConfig) -> Iterator[nn.Module]:
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        yield build_network(cfg.model, cfg.num_classes).eval()


# ---- printing -------------------------------------------------------------------------------------------------------
def summary(network: Any, description: NetworkDescription, size: tuple[int, int]) -> dict[str, str]:
    """Return the lines below the table by their headings."""
    unit, prefix = flops_unit(description.flops)
    flops, (classes, height, width) = description.flops / unit, description.logits
    fields = "; ".join(f"{name}: {field}" for name, field in description.receptive_fields.items())
    scales = [scale for scale in getattr(without_crf(network), "scales", []) if scale != 1]
    wider = ", ".join(f"{1 / scale:.3g} times as wide at scale {scale:g}" for scale in scales)
    every = "pixel" if network.stride == 1 else f"{network.stride} pixels"
    rows = {
        "parameters": f"{description.parameters:,}",
        "picture": f"{size[0]} x {size[1]}",
        "logits": f"{classes} classes, {height} x {width}, one every {every}",
        "FLOPs, forward": f"{flops:.2f} {prefix} (a multiplication and an addition are 2)",
        "FLOPs, training step": f"{3 * flops:.2f} {prefix} for each picture (3 times the forward pass)",
    }
    if fields:
        rows["receptive field"] = f"{fields} (pixels, theoretical){f'; {wider}' if wider else ''}"
    return rows | ({"CRF": crf_summary(network)} if isinstance(network, RecurrentCRF) else {})


def crf_summary(crf: RecurrentCRF) -> str:
    return (
        f"{crf.iterations} iterations in training, {crf.iterations_test} in the test, on every pixel of the picture; "
        "it sees all of them; its FLOPs, which depend on the picture, are not counted"
    )


def flops_unit(flops: int) -> tuple[float, str]:
    """Return the unit, and its prefix, that suits so many."""
    return (1e9, "G") if flops >= 1e9 else (1e6, "M")


def table(layers: Sequence[LayerDescription]) -> str:
    printed = Table(box=None, header_style="bold", pad_edge=False)
    printed.add_column("layer", no_wrap=True)
    printed.add_column("", no_wrap=True)
    total = sum(layer.flops for layer in layers)
    unit, prefix = flops_unit(total)
    for heading in ("kernel", "stride", "rate", "output", "sees", "parameters", f"{prefix}FLOPs", "share"):
        printed.add_column(heading, justify="right", no_wrap=True)
    for layer in merge_repeated_blocks(layers):
        printed.add_row(
            layer.name,
            layer.kind,
            "" if layer.kernel is None else f"{layer.kernel}x{layer.kernel}",
            str(layer.stride) if layer.stride > 1 else "",
            str(layer.rate) if layer.rate > 1 else "",
            " x ".join(map(str, layer.shape)),
            str(layer.receptive_field or ""),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.flops / unit:.2f}" if layer.flops else "",
            f"{100 * layer.flops / total:.1f} %" if layer.flops else "",
        )
    return text(printed, width=132)
