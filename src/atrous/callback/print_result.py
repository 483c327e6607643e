"""Print the result of a run: a table by class, its files, and whether its CRF was tuned on its pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from atrous.console import text
from atrous.metric.protocol import refiner_title

log = logging.getLogger("atrous")


def print_result(result: dict[str, Any], folder: Path) -> None:
    """Print the table of a result, where its files are, and how to look further."""
    plain, refined = result["scores"], result["scores_crf"]
    log.info(f"\n{result['name']}, seed {result['seed']}: IoU in % on {result['protocol']['pictures']} pictures")
    log.info(class_table(plain, refined, by=refiner_title(result["protocol"].get("crf"))))
    warn_of_tuning_pictures(result["protocol"])
    best = result["best_validation"]
    files = {
        "pictures": "pictures/    validation pictures: image, truth, prediction, CRF, errors",
        "confusion.png": "curves.png   loss, learning rate, mean IoU     confusion.png   classes by prediction",
        "result.json": "result.json  all scores and their protocol     metrics.csv     every number over time",
        "checkpoint": "checkpoint/  last.ckpt"
        + (f", best.ckpt (iteration {best['iteration']}, mean IoU {best['miou']:.4f})" if best else ""),
    }
    log.info("\n".join([f"\n{folder}/", *(f"  {line}" for name, line in files.items() if (folder / name).exists())]))
    if list(folder.glob("wandb/offline-run-*")):
        log.info(f"W&B ran offline; after `wandb login`: wandb sync {folder}/wandb/offline-run-*")


def warn_of_tuning_pictures(protocol: Mapping[str, Any]) -> None:
    """Warn where the CRF was chosen on some of the pictures that were scored."""
    if count := protocol.get("crf_chosen_on"):
        log.info(
            f"the CRF's values were chosen on {count} of these {protocol['pictures']} pictures: "
            "atrous evaluate run=… crf=… leave_out=true scores the others alone"
        )


def class_table(
    plain: Mapping[str, Any],
    refined: Mapping[str, Any] | None,
    boundaries: Sequence[Mapping[str, Any] | None] = (),
    by: str = "the CRF",
) -> str:
    """Make a table of the IoU of each class and their mean, in %, before and after the CRF; and of their boundaries.

    `by`: what refined, for the headings.
    """
    table = Table()
    table.add_column("class")
    known = [scores for scores in boundaries if scores]
    headings = ["network"] + ([f"with {by}", "gain"] if refined else [])
    headings += ["boundary", f"… with {by}"][: len(known)]
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, iou in plain["iou"].items():
        cells = _cells(iou, refined["iou"][name] if refined else None, bool(refined))
        table.add_row(name, *cells, *(_percent(scores["iou"][name]) for scores in known))
    table.add_section()
    title = f"mean over {plain['counted']} of {len(plain['iou'])}"
    cells = _cells(plain["mean_iou"], refined["mean_iou"] if refined else None, bool(refined))
    table.add_row(title, *cells, *(_percent(scores["mean_iou"]) for scores in known), style="bold")
    return text(table).rstrip()


def _cells(plain: float | None, refined: float | None, has_crf: bool) -> list[str]:
    cells = [_percent(plain)]
    if has_crf:
        known = plain is not None and refined is not None
        cells += [_percent(refined), f"{100 * (refined - plain):+.2f}" if known else ""]  # type: ignore[operator]
    return cells


def _percent(share: float | None) -> str:
    return "absent" if share is None else f"{100 * share:.2f}"
