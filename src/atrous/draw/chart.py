"""Charts: curves of a run, the confusion matrix, trimaps, a parameter search, the comparison of two networks."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atrous.disk import write_whole

# Lines differ in colour and in dashes.
LINES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"), ("#E69F00", "-"), ("#56B4E9", "--"))

Curves = dict[str, tuple[np.ndarray, np.ndarray]]
"""{key: (steps, values)}"""

BETTER, WORSE, UNCLEAR = LINES[0][0], LINES[1][0], "#8a8a8a"

# Paper: figure 5 of v1, VOC 2012 val; the numbers are in the authors' own plotting script.
TRIMAP_WIDTHS = (1, 2, 3, 4, 5, 7, 10, 13, 16, 20, 25, 30, 35, 40)
TRIMAPS = {  # mean IoU, pixel accuracy, in %
    "DeepLab": (
        (39.1, 40.9, 42.6, 44.1, 45.5, 47.9, 50.8, 53.0, 54.7, 56.4, 58.0, 59.1, 59.9, 60.4),
        (59.8, 62.1, 64.2, 66.2, 67.9, 70.8, 74.0, 76.4, 78.2, 80.1, 81.8, 83.1, 84.2, 85.0),
    ),
    "DeepLab-MSc": (
        (43.3, 45.3, 47.1, 48.6, 49.9, 52.0, 54.4, 56.2, 57.6, 59.0, 60.3, 61.2, 61.8, 62.3),
        (64.2, 66.7, 68.8, 70.6, 72.1, 74.5, 77.1, 79.0, 80.4, 81.9, 83.4, 84.5, 85.3, 86.0),
    ),
    "DeepLab-CRF": (
        (45.9, 47.8, 49.3, 50.6, 51.7, 53.5, 55.7, 57.4, 58.7, 60.2, 61.5, 62.5, 63.2, 63.7),
        (67.8, 69.8, 71.4, 72.8, 74.0, 75.9, 78.2, 79.9, 81.3, 82.8, 84.2, 85.3, 86.1, 86.9),
    ),
    "DeepLab-MSc-CRF": (
        (48.0, 50.0, 51.5, 52.7, 53.8, 55.6, 57.6, 59.1, 60.4, 61.6, 62.8, 63.7, 64.3, 64.8),
        (69.6, 71.7, 73.2, 74.5, 75.7, 77.5, 79.5, 81.1, 82.3, 83.6, 84.9, 85.9, 86.7, 87.3),
    ),
}


def curves(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw what a run logged over its steps: the loss, the mean IoU before and after the CRF, the learning rates.

    rows: one for each logged iteration, {"step": …} and any of "train/loss", "val/miou", "val/miou_crf", "lr/<group>".
    Values that are absent, empty or not finite are left out, so rows may come from csv.DictReader as they are.
    """
    rates = list(dict.fromkeys(key for row in rows for key in row if key.startswith("lr/")))
    loss, miou, rate = (
        _finite_curves(rows, ["train/loss"]),
        _finite_curves(rows, ["val/miou", "val/miou_crf"]),
        _finite_curves(rows, rates),
    )
    count = sum(map(bool, (loss, miou, rate)))
    if not count:
        raise ValueError(f"`rows` hold nothing to draw: no train/loss, val/miou, lr/… (got {len(rows)} rows)")
    figure = _figure(figsize=(4.4 * count, 3.3), dpi=144, layout="constrained")
    axes = iter(figure.subplots(1, count, squeeze=False)[0])
    if loss:
        _draw_loss(_style(next(axes), "loss"), *loss["train/loss"])
    if miou:
        _draw_miou(_style(next(axes), "mean IoU on validation"), miou)
    if rate:
        _draw_rates(_style(next(axes), "learning rate"), rate)
    _write_figure(figure, path)


def _figure(**options: Any) -> Any:
    from matplotlib.figure import Figure  # a third of a second to import: only for who draws

    return Figure(**options)


def _finite_curves(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Curves:
    """Return the finite values, without the keys that have none."""
    curves = {}
    for key in keys:
        points = [(float(row["step"]), float(row[key])) for row in rows if row.get(key) not in (None, "")]
        finite = [(step, value) for step, value in points if np.isfinite(value)]
        if finite:
            curves[key] = (np.array(finite)[:, 0], np.array(finite)[:, 1])
    return curves


def _style(axis: Any, title: str) -> Any:
    """Give an axis its title, its grid and no frame."""
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axis.set_xlabel("iteration")
    axis.grid(color="#e6e6e6")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    return axis


def _draw_loss(axis: Any, steps: np.ndarray, values: np.ndarray) -> None:
    """Draw the noisy values pale, and over them their running mean over a twentieth of the run."""
    rgb, window = LINES[0][0], np.ones(max(1, len(values) // 20))
    mean = np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
    if len(window) > 1:
        axis.plot(steps, values, color=rgb, linewidth=0.8, alpha=0.3)
    axis.plot(steps, mean, color=rgb)
    axis.set_ylim(bottom=0)


def _draw_miou(axis: Any, miou: Curves) -> None:
    names = {"val/miou": "before the CRF", "val/miou_crf": "after the CRF"} if len(miou) > 1 else {}
    for (key, (steps, values)), (rgb, dash) in zip(miou.items(), LINES):
        name = f"{names.get(key, 'last')}: {values[-1]:.3f}"
        axis.plot(steps, values, dash, color=rgb, marker="o", markersize=4, label=name)
    axis.set_ylim(0, 1)
    axis.set_xlim(left=0)
    axis.legend(frameon=False, loc="lower right")


def _draw_rates(axis: Any, rates: Curves) -> None:
    for (key, (steps, values)), (rgb, dash) in zip(rates.items(), LINES):
        axis.plot(steps, values, dash, color=rgb, label=key.removeprefix("lr/"))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_ylim(bottom=0)
    if len(rates) > 1:
        axis.legend(frameon=False)


def confusion(matrix: np.ndarray, names: Sequence[str], path: str | Path) -> None:
    """Draw (C, C) counts, truth by prediction, each row in percent of its truth; a row without truth stays grey."""
    from matplotlib.colors import PowerNorm  # as slow as in `_figure`

    count = len(names)
    if matrix.shape != (count, count):
        raise ValueError(f"`matrix` must be {(count, count)}, one row and column for each name (got {matrix.shape})")
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(100.0 * matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)

    cell = 0.52 if count <= 12 else 0.4 if count <= 25 else 0.27  # inches
    letters = {0.52: 10, 0.4: 8.5, 0.27: 7}[cell]
    side = count * cell
    margin = 0.085 / 10 * letters * max(len(name) for name in names) + 0.35
    figure = _figure(figsize=(side + margin + 0.9, side + margin + 0.3), dpi=144, layout="constrained")
    axis = figure.add_subplot()
    axis.set_facecolor("#dddddd")
    # A square root makes a confusion of one percent visible beside a diagonal of ninety.
    matrix_image = axis.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    _label_matrix(axis, names, letters)
    for row, column in zip(*np.nonzero(np.nan_to_num(share) >= 0.5)):
        value = share[row, column]
        rgb = "white" if value > 35 else "#202020"
        axis.text(column, row, f"{value:.0f}", ha="center", va="center", color=rgb, fontsize=letters - 1.5)
    bar = figure.colorbar(matrix_image, ax=axis, fraction=0.03, pad=0.02, ticks=[0, 1, 5, 20, 50, 100])
    bar.set_label("% of the truth's pixels", fontsize=letters)
    bar.ax.tick_params(labelsize=letters, length=0)
    bar.outline.set_visible(False)
    _write_figure(figure, path, bbox_inches="tight", pad_inches=0.15)


def _label_matrix(axis: Any, names: Sequence[str], letters: float) -> None:
    """Write the names along both axes, and draw white lines between the cells."""
    count = len(names)
    axis.set_xticks(range(count), names, rotation=90, fontsize=letters)
    axis.set_yticks(range(count), names, fontsize=letters)
    axis.xaxis.tick_top()
    axis.xaxis.set_label_position("top")
    axis.set_xlabel("predicted as", fontweight="bold", fontsize=letters + 1)
    axis.set_ylabel("truth", fontweight="bold", fontsize=letters + 1)
    axis.tick_params(length=0)
    axis.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)


def trimaps(curves: Mapping[str, Mapping[str, Sequence[float]]], path: str | Path, title: str, published: bool) -> None:
    """Draw scores near the borders as the papers do; `published`: v1's own curves beside them.

    curves: {name: {"width": [1, 2, …], "mean_iou": …, "pixel_accuracy": …}}, scores from 0 to 1.
    """
    figure = _figure(figsize=(10.2, 3.7), dpi=144, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes = figure.subplots(1, 2)
    panels = (("mean_iou", "mean IoU (%)"), ("pixel_accuracy", "pixel accuracy (%)"))
    for number, (axis, (key, heading)) in enumerate(zip(axes, panels)):
        _style(axis, heading)
        axis.set_xlabel("width of the trimap in pixels")
        for (name, scores), (rgb, dash) in zip(curves.items(), LINES):
            # Paper: every third width is marked.
            marks = {"marker": "o", "markersize": 4, "markevery": 3}
            axis.plot(scores["width"], 100 * np.asarray(scores[key]), dash, color=rgb, linewidth=2, label=name, **marks)
        for (name, values), (_, dash) in zip(TRIMAPS.items() if published else (), LINES):
            axis.plot(TRIMAP_WIDTHS, values[number], dash, color="#888888", linewidth=1.2, label=f"{name} (v1)")
        axis.set_xlim(0, 41)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    _write_figure(figure, path)


def heat_maps(rounds: Sequence[Mapping[Any, float]], path: str | Path, title: str) -> None:
    """Draw a search: a row for each round, with a panel of mean IoU by sigma_alpha and sigma_beta for each w1.

    rounds: {point: mean IoU, 0 to 1}, where a point has these attributes; a cell shows the best over any other.
    """
    columns = max(len({point.w1 for point in scores}) for scores in rounds)
    shapes = [(len({p.sigma_alpha for p in scores}), len({p.sigma_beta for p in scores})) for scores in rounds]
    width = 0.62 * max(beta for _, beta in shapes) + 0.7
    heights = [0.42 * alpha + 1.0 for alpha, _ in shapes]
    figure = _figure(figsize=(max(columns * width + 0.6, 7), sum(heights) + 0.7), dpi=110, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    rows = figure.subfigures(len(rounds), 1, height_ratios=heights, squeeze=False)[:, 0]
    for number, (row, scores) in enumerate(zip(rows, rounds), 1):
        axes = row.subplots(1, columns, squeeze=False, sharey=True)[0]
        for axis, w1 in zip(axes, sorted({point.w1 for point in scores})):
            _heat_map(axis, scores, w1)
        for axis in axes[len({point.w1 for point in scores}) :]:
            axis.set_visible(False)
        axes[0].set_ylabel(f"round {number}\nsigma_alpha")
    _write_figure(figure, path)


def _heat_map(axis: Any, scores: Mapping[Any, float], w1: float) -> None:
    """Draw one panel, on the colour scale of its round."""
    alphas, betas = (sorted({getattr(p, name) for p in scores}) for name in ("sigma_alpha", "sigma_beta"))
    best = max(scores, key=lambda point: scores[point])
    values = np.full((len(alphas), len(betas)), np.nan)
    for point, score in scores.items():
        if point.w1 == w1:
            place = alphas.index(point.sigma_alpha), betas.index(point.sigma_beta)
            values[place] = np.nanmax([values[place], 100 * score])
    low, high = 100 * min(scores.values()), 100 * max(scores.values())
    axis.imshow(values, cmap="viridis", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect="auto")
    for place, value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = "black" if value > low + 0.6 * (high - low) else "white"
            axis.text(place[1], place[0], f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
    if best.w1 == w1:
        from matplotlib.patches import Rectangle  # as slow as in `_figure`

        corner = betas.index(best.sigma_beta) - 0.5, alphas.index(best.sigma_alpha) - 0.5
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#D55E00", linewidth=2.5))
    axis.set_title(f"w1 = {w1:g}", fontsize=10)
    axis.set_xticks(range(len(betas)), [f"{value:g}" for value in betas], fontsize=8)
    axis.set_yticks(range(len(alphas)), [f"{value:g}" for value in alphas], fontsize=8)
    axis.set_xlabel("sigma_beta", fontsize=9)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def differences(
    rows: Sequence[tuple[str, float, float, float]], change: np.ndarray, path: str | Path, title: str
) -> None:
    """Draw what a second network does better or worse.

    rows: (name, difference, low, high), with the bounds of its interval, 0 to 1, NaN for an absent class; the first row
    is the mean. change: each picture's gain, NaN where all is void.
    """
    figure = _figure(figsize=(10.5, max(3.2, 0.26 * len(rows) + 1.2)), dpi=144, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    _draw_intervals(_style(left, "IoU, with the 95 % interval"), rows)
    _draw_gains(_style(right, "pictures, by what each gained"), 100 * change[np.isfinite(change)])
    for axis, score, along in ((left, "IoU", "y"), (right, "its own mean IoU", "x")):
        axis.set_xlabel(f"points of {score}")
        axis.grid(False, axis=along)
        axis.axvline(0, color="#202020", linewidth=0.8, zorder=3)
    _write_figure(figure, path)


def _draw_intervals(axis: Any, rows: Sequence[tuple[str, float, float, float]]) -> None:
    for place, (_, *bounds) in enumerate(rows):
        value, low, high = (100 * each for each in bounds)
        if not np.isfinite(value):
            axis.text(0, place, "  absent", va="center", fontsize=8, color=UNCLEAR)
            continue
        rgb = UNCLEAR if low <= 0 <= high else BETTER if value > 0 else WORSE
        axis.barh(place, value, 0.62, color=rgb, alpha=0.55)
        axis.plot([low, high], [place, place], color=rgb, linewidth=2, solid_capstyle="butt")
        axis.plot(value, place, "o", color=rgb, markersize=4)
    axis.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=9)
    axis.get_yticklabels()[0].set_fontweight("bold")
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.axhline(0.5, color="#bbbbbb", linewidth=0.8)
    axis.tick_params(axis="y", length=0)


def _draw_gains(axis: Any, points: np.ndarray) -> None:
    from matplotlib.ticker import MaxNLocator  # as slow as in `_figure`

    reach = max(1.0, float(np.abs(points).max(initial=0)))
    edges = np.linspace(-reach, reach, 2 * min(20, max(4, len(points) // 8)) + 1)  # 0 is an edge
    worse, same, better = points[points < 0], points[points == 0], points[points > 0]
    for part, rgb in ((worse, WORSE), (better, BETTER)):
        axis.hist(part, edges, color=rgb, alpha=0.75, rwidth=0.92)
    style = {"transform": axis.transAxes, "va": "top", "fontweight": "bold"}
    axis.text(0.02, 0.98, f"{len(worse)} worse", color=WORSE, **style)
    text = f"{len(better)} better" + (f"\n{len(same)} the same" if len(same) else "")
    axis.text(0.98, 0.98, text, color=BETTER, ha="right", **style)
    axis.set_ylim(top=axis.get_ylim()[1] * 1.15)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))


def _write_figure(figure: Any, path: str | Path, **options: Any) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", **options)
    write_whole(Path(path), buffer.getbuffer())
