"""Draw what the logits of a network see of a picture: theoretical and effective receptive fields."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np

DARKEST = 1e-6
"""Relative to the largest gradient; smaller ones are drawn as this."""
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")  # Okabe and Ito's


def draw_receptive_fields(fields: Mapping[str, int], effective: np.ndarray, draws: int) -> bytes:
    """Return a PNG: the theoretical fields as squares about the middle logit, the effective one as brightness.

    fields: {label: width in pixels}; effective: (size, size) gradients, averaged over `draws` random networks.
    """
    from matplotlib.figure import Figure  # takes a third of a second to import: not for a table alone

    size = len(effective)
    half = (max([*fields.values(), size]) + 16) / 2
    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    largest = effective.max()
    brightness = np.log10(np.maximum(effective, DARKEST * largest) / largest)
    image = right.imshow(brightness, cmap="magma", extent=(-size / 2, size / 2, size / 2, -size / 2))
    figure.colorbar(image, ax=right, shrink=0.8, label="log₁₀ of the gradient, 0 where it is largest")
    widths = sorted(fields.items(), key=lambda item: -item[1])
    for axis in (left, right):
        for (name, width), colour in zip(widths, cycle(COLOURS)):
            _draw_square(axis, width, f"{name}: {width} pixels", edgecolor=colour, linewidth=1.5)
        _draw_square(axis, size, f"the picture: {size} pixels", edgecolor="grey", linestyle=":")
        axis.set(xlim=(-half, half), ylim=(half, -half), aspect="equal", xlabel="pixels from the middle logit")
    for (_, width), colour in zip(widths, cycle(COLOURS)):
        _draw_square(left, width, None, facecolor=colour, alpha=0.3)
    left.set_title("theoretical receptive field")
    right.set_title(f"effective receptive field, {draws} random networks")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    return buffer.getvalue()


def _draw_square(axis: Any, width: float, label: str | None, **style: Any) -> None:
    """Draw a square about the origin."""
    from matplotlib.patches import Rectangle  # as above

    style = {"facecolor": "none"} | style
    axis.add_patch(Rectangle((-width / 2, -width / 2), width, width, label=label, **style))
