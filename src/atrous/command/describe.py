"""`atrous describe`: a network's layers, parameters, FLOPs, sizes, and what its logits see of a picture."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Sequence
from itertools import cycle, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, ListConfig
from torch import nn

from atrous.config.build import build_network
from atrous.console import text
from atrous.disk import write_whole
from atrous.model.atrous import effective_receptive_field, receptive_field
from atrous.model.backbone.norm import ConvNorm
from atrous.model.crf import RecurrentCRF
from atrous.model.flops import counted

log = logging.getLogger("atrous")

DRAWS = 3
"""Over how many random networks the effective receptive field is averaged."""

DARKEST = 1e-6
"""Of the largest gradient: what is less is drawn as this."""
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")  # Okabe and Ito's


class Layer(NamedTuple):
    name: str
    kind: str
    kernel: int | None
    stride: int
    rate: int
    shape: tuple[int, ...]  # (C, h, w) of what it gives
    parameters: int
    flops: int
    sees: int | None = None  # the theoretical receptive field, in pixels
    times: int = 1  # how many alike this row stands for

    @property
    def facts(self) -> tuple[Any, ...]:
        """What layers that are alike have in common."""
        return self.name.rpartition(".")[2], *self[1:8]


def describe(cfg: DictConfig) -> dict[str, Any]:
    """Prints the table; with `out` also draws the receptive fields there."""
    size = picture_size(cfg.size)
    if cfg.num_classes < 1:
        raise ValueError(f"`num_classes` must be 1 or more (got {cfg.num_classes})")
    with torch.device("meta"):  # shapes and counts need neither memory nor arithmetic
        network: Any = build_network(cfg.model, cfg.num_classes).eval()
    layers, shape = trace(before_crf(network), size)
    if isinstance(network, RecurrentCRF):
        learnt = sum(p.numel() for p in network.crf_parameters())
        layers.append(Layer("crf", "mean field", None, 1, 1, (network.num_classes, *size), learnt, flops=0))
    log.info(table(layers))
    log.info("\n".join(f"{name:22}{told}" for name, told in summary(network, layers, size, shape).items()))
    if cfg.out is not None:
        path = Path(cfg.out).expanduser() / "receptive_field.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        step = 4 * network.stride  # the middle is a logit's, also in a pyramid's scales
        side = max(size) + -(max(size) - 1) % step
        write_whole(path, draw(fields(network), effective(cfg, side)))
        log.info(f"{'drawn':22}{path}")
    return {"layers": layers, "logits": shape, **counts(network, layers)}


def picture_size(asked: Any) -> tuple[int, int]:
    size = tuple(asked) if isinstance(asked, (list, tuple, ListConfig)) else (asked, asked)
    if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f"`size` must be a number of pixels, or [height,width] (got {asked})")
    return size


# ---- what there is --------------------------------------------------------------------------------------------------
def trace(network: nn.Module, size: tuple[int, int]) -> tuple[list[Layer], tuple[int, ...]]:
    """The layers in the order in which a picture of this size meets them, and the shape (C, h, w) of the logits."""
    names = {module: name for name, module in network.named_modules() if is_layer(module)}
    inside = {child for module in names for child in module.modules() if child is not module}
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        shapes.setdefault(module, tuple(output.shape[1:]))  # of several scales the first is the picture's own

    hooks = [module.register_forward_hook(note) for module in names if module not in inside]
    counter, logits = counted(network, size)
    for hook in hooks:
        hook.remove()
    flops, widths = counter.get_flop_counts(), seen(network)
    root = type(network).__name__
    return [
        row(module, short(names[module]), shape, sum(flops.get(f"{root}.{names[module]}", {}).values()), widths)
        for module, shape in shapes.items()
    ], tuple(logits.shape[1:])


def is_layer(module: nn.Module) -> bool:
    """Convolutions with their norms, poolings, and whatever else has weights of its own."""
    return isinstance(module, ConvNorm) or hasattr(module, "kernel_size") or bool(module._parameters)


def row(module: nn.Module, name: str, shape: tuple[int, ...], flops: int, widths: dict[str, int]) -> Layer:
    conv: Any = module.conv if isinstance(module, ConvNorm) else module
    kernel, stride, rate = (first(getattr(conv, key, None)) for key in ("kernel_size", "stride", "dilation"))
    kind = {"ConvNorm": "conv, norm", "Conv2d": "conv", "AvgPool2d": "average"}.get(type(module).__name__)
    kind = kind or ("max" if "Pool" in type(module).__name__ else type(module).__name__)
    parameters = sum(p.numel() for p in module.parameters())
    return Layer(name, kind, kernel, stride or 1, rate or 1, shape, parameters, flops, widths.get(name))


def first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def short(name: str) -> str:
    """Without the words that say nothing: network.backbone.layers.conv1_1 is backbone.conv1_1."""
    return ".".join(word for word in name.split(".") if word not in ("network", "layers"))


def before_crf(network: Any) -> Any:
    """What can be described layer by layer: a CRF's lattice is another for each picture."""
    return network.network if isinstance(network, RecurrentCRF) else network


def innermost(network: Any) -> Any:
    """The network of one scale, inside of whatever wraps it."""
    return innermost(network.network) if hasattr(network, "network") else network


def seen(network: nn.Module) -> dict[str, int]:
    """{the layer's short name: the width of what its units see}, along the longest path."""
    inner = innermost(network)
    trunk = [(f"backbone.{window.name}", window) for window in inner.backbone.windows()]
    chains = [trunk]
    for branch, windows in enumerate(inner.head.windows()):
        places = ["head" if window.name == "pool5a" else f"head.branches.{branch}" for window in windows]
        chains.append(trunk + [(f"{place}.{window.name}", window) for place, window in zip(places, windows)])
    return {
        name: receptive_field(window for _, window in chain[:end]).size
        for chain in chains
        for end, (name, _) in enumerate(chain, start=1)
    }


def fields(network: nn.Module) -> dict[str, int]:
    """{rate 12: 435, …}: the theoretical receptive field of each of the head's branches."""
    inner = innermost(network)
    return {f"rate {rate}": field.size for rate, field in zip(inner.head.rates, inner.receptive_fields())}


def counts(network: nn.Module, layers: Sequence[Layer]) -> dict[str, Any]:
    flops = sum(layer.flops for layer in layers)
    parameters = sum(p.numel() for p in network.parameters())
    return {"parameters": parameters, "flops": flops, "receptive_fields": fields(network)}


# ---- telling --------------------------------------------------------------------------------------------------------
def summary(network: Any, layers: Sequence[Layer], size: tuple[int, int], shape: tuple[int, ...]) -> dict[str, str]:
    found = counts(network, layers)
    flops = found["flops"]
    unit, prefix = scaled(flops)
    told = "; ".join(f"{name}: {field}" for name, field in found["receptive_fields"].items())
    scales = [scale for scale in getattr(before_crf(network), "scales", []) if scale != 1]
    wider = ", ".join(f"{1 / scale:.3g} times as wide at scale {scale:g}" for scale in scales)
    return {
        "parameters": f"{found['parameters']:,}",
        "picture": f"{size[0]} x {size[1]}",
        "logits": f"{shape[0]} classes, {shape[1]} x {shape[2]}, one every {network.stride} pixels",
        "FLOPs, forward": f"{flops / unit:.2f} {prefix} (a multiplication and an addition are 2)",
        "FLOPs, training step": f"{3 * flops / unit:.2f} {prefix} for each picture (3 times the forward pass)",
        "receptive field": f"{told} (pixels, theoretical){f'; {wider}' if wider else ''}",
    } | ({"CRF": crf_told(network)} if isinstance(network, RecurrentCRF) else {})


def crf_told(crf: RecurrentCRF) -> str:
    return (
        f"{crf.iterations} iterations in training, {crf.iterations_test} in the test, on every pixel of the picture; "
        "it sees all of them; its FLOPs, which depend on the picture, are not counted"
    )


def scaled(flops: int) -> tuple[float, str]:
    """The unit, and its prefix, in which so many are told."""
    return (1e9, "G") if flops >= 1e9 else (1e6, "M")


def table(layers: Sequence[Layer]) -> str:
    from rich.table import Table

    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("layer", no_wrap=True)
    shown.add_column("", no_wrap=True)
    total = sum(layer.flops for layer in layers)
    unit, prefix = scaled(total)
    for heading in ("kernel", "stride", "rate", "output", "sees", "parameters", f"{prefix}FLOPs", "share"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for layer in folded(layers):
        shown.add_row(
            layer.name,
            layer.kind,
            "" if layer.kernel is None else f"{layer.kernel}x{layer.kernel}",
            str(layer.stride) if layer.stride > 1 else "",
            str(layer.rate) if layer.rate > 1 else "",
            " x ".join(map(str, layer.shape)),
            str(layer.sees or ""),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.flops / unit:.2f}" if layer.flops else "",
            f"{100 * layer.flops / total:.1f} %" if layer.flops else "",
        )
    return text(shown, width=132)


def folded(layers: Iterable[Layer]) -> list[Layer]:
    """The blocks of a stage that are alike as one: res4.1 to res4.22 are the rows of res4.1…22, with their sums."""
    blocks: list[tuple[str, str, list[Layer]]] = []  # (first, last, the rows of one)
    for name, group in groupby(layers, key=lambda layer: layer.name.rpartition(".")[0]):
        rows = list(group)
        stage, _, index = name.rpartition(".")
        if blocks and index.isdigit() and blocks[-1][0].rpartition(".")[0] == stage:
            begin, _, before = blocks[-1]
            if [layer.facts for layer in before] == [layer.facts for layer in rows]:
                summed = [new._replace(times=old.times + 1) for old, new in zip(before, rows)]
                blocks[-1] = begin, index, summed
                continue
        blocks.append((name, "", rows))
    return [
        layer._replace(
            name=f"{begin}…{last}.{layer.facts[0]}" if last else layer.name,
            parameters=layer.times * layer.parameters,
            flops=layer.times * layer.flops,
        )
        for begin, last, rows in blocks
        for layer in rows
    ]


# ---- drawing --------------------------------------------------------------------------------------------------------
def effective(cfg: DictConfig, size: int) -> np.ndarray:
    """(size, size): how much each pixel of noise moves the middle logits, on average over random networks."""
    total = torch.zeros(size, size)
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        network = before_crf(build_network(cfg.model, cfg.num_classes).eval())
        total += effective_receptive_field(network, size)
    return (total / DRAWS).numpy()


def draw(fields: dict[str, int], effective: np.ndarray) -> bytes:
    """A PNG: the theoretical fields as squares about the middle logit; the effective one as brightness under them."""
    from matplotlib.figure import Figure

    size = len(effective)
    half = (max(*fields.values(), size) + 16) / 2
    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    largest = effective.max()
    brightness = np.log10(np.maximum(effective, DARKEST * largest) / largest)
    shown = right.imshow(brightness, cmap="magma", extent=(-size / 2, size / 2, size / 2, -size / 2))
    figure.colorbar(shown, ax=right, shrink=0.8, label="log₁₀ of the gradient, 0 where it is largest")
    widths = sorted(fields.items(), key=lambda item: -item[1])
    for axis in (left, right):
        for (name, width), colour in zip(widths, cycle(COLOURS)):
            square(axis, width, f"{name}: {width} pixels", edgecolor=colour, linewidth=1.5)
        square(axis, size, f"the picture: {size} pixels", edgecolor="grey", linestyle=":")
        axis.set(xlim=(-half, half), ylim=(half, -half), aspect="equal", xlabel="pixels from the middle logit")
    for (_, width), colour in zip(widths, cycle(COLOURS)):
        square(left, width, None, facecolor=colour, alpha=0.3)
    left.set_title("theoretical receptive field")
    right.set_title(f"effective receptive field, {DRAWS} random networks")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    return buffer.getvalue()


def square(axis: Any, width: float, label: str | None, **style: Any) -> None:
    """About the origin."""
    from matplotlib.patches import Rectangle

    style = {"facecolor": "none"} | style
    axis.add_patch(Rectangle((-width / 2, -width / 2), width, width, label=label, **style))
