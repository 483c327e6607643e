"""What W&B is told of a run beside its curves, so that a table or parallel coordinates of many need no clicking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import WandbLogger

LONGEST_TAG = 64


def introduce(logger: WandbLogger, config: Mapping[str, Any]) -> None:
    """What runs are filtered and grouped by, at the top level: W&B shows the rest of a configuration in its tree."""
    run: Any = logger.experiment
    dataset, paper = dataset_of(config), config.get("paper") or {}
    told = {"dataset": dataset, "row": config["name"], "sweep": run.group or None}
    run.config.update(told, allow_val_change=True)
    run.tags = tags(run.tags or (), [paper.get("table"), paper.get("row"), dataset])


def dataset_of(config: Mapping[str, Any]) -> str:
    """atrous.data.voc.VOC is voc, as on the command line."""
    return str(config["data"]["_target_"]).split(".")[-2]


def tags(own: Sequence[str], more: Sequence[str | None]) -> tuple[str, ...]:
    """Those that W&B takes: it refuses a run for one that is too long."""
    return tuple(dict.fromkeys(tag[:LONGEST_TAG].strip() for tag in [*own, *more] if tag))


def summarise(logger: WandbLogger, result: Mapping[str, Any], names: Sequence[str]) -> None:
    run: Any = logger.experiment
    run.summary.update(summary(result))
    # Counts, not pixels: plot.confusion_matrix would want every pixel's label.
    import wandb

    rows = [[names[i], names[j], int(n)] for i, row in enumerate(result["confusion"]) for j, n in enumerate(row)]
    columns = ["Actual", "Predicted", "nPredictions"]
    table = wandb.Table(columns=[*columns], data=rows)
    run.log({"confusion": wandb.plot_table("wandb/confusion_matrix/v1", table, {c: c for c in columns})})


def summary(result: Mapping[str, Any]) -> dict[str, float]:
    """All as fractions, the published numbers too. A difference from them is told only where it means something."""
    paper = result["paper"] or {}
    scores = {"": result["scores"], "_crf": result["scores_crf"]}
    told: dict[str, float] = {"parameters": result["parameters"]}
    for end, found in scores.items():
        miou, published = (found or {}).get("mean_iou"), paper.get(f"miou{end}")
        if miou is not None:
            told[f"miou{end}"] = miou
        if published is not None:
            told[f"published{end}"] = published / 100
        if miou is not None and published is not None and paper.get("comparable", True):
            told[f"difference{end}"] = miou - published / 100
    iou = (scores["_crf"] or scores[""])["iou"]
    return told | {f"iou/{name}": value for name, value in iou.items() if value is not None}
