"""Send W&B the facts of a run beside its curves, by which many runs are filtered, grouped and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import WandbLogger

LONGEST_TAG = 64


def describe_run(logger: WandbLogger, config: Mapping[str, Any]) -> None:
    """Set what runs are filtered and grouped by at the top level; W&B shows the rest of a configuration as a tree."""
    run: Any = logger.experiment
    dataset, paper = dataset_of(config), config.get("paper") or {}
    facts = {"dataset": dataset, "row": config["name"], "sweep": run.group or None}
    run.config.update(facts, allow_val_change=True)
    run.tags = tags(run.tags or (), [paper.get("table"), paper.get("row"), dataset])


def dataset_of(config: Mapping[str, Any]) -> str:
    """Return the dataset's name on the command line: voc for atrous.data.voc.VOC."""
    return str(config["data"]["_target_"]).split(".")[-2]


def tags(own: Sequence[str], more: Sequence[str | None]) -> tuple[str, ...]:
    """Return all tags, cut to the length that W&B accepts: it refuses a run for one that is too long."""
    return tuple(dict.fromkeys(tag[:LONGEST_TAG].strip() for tag in [*own, *more] if tag))


def write_summary(logger: WandbLogger, result: Mapping[str, Any], names: Sequence[str]) -> None:
    """Send the summary of a result and its confusion matrix."""
    run: Any = logger.experiment
    run.summary.update(summary(result))
    import wandb  # half a second to import: for runs that log to it

    # Counts, not pixels: plot.confusion_matrix would want every pixel's label.
    rows = [[names[i], names[j], int(n)] for i, row in enumerate(result["confusion"]) for j, n in enumerate(row)]
    columns = ["Actual", "Predicted", "nPredictions"]
    table = wandb.Table(columns=[*columns], data=rows)
    run.log({"confusion": wandb.plot_table("wandb/confusion_matrix/v1", table, {c: c for c in columns})})


def summary(result: Mapping[str, Any]) -> dict[str, float]:
    """Return scores and published numbers as fractions; their difference only where they are comparable."""
    paper = result["paper"] or {}
    scores = {"": result["scores"], "_crf": result["scores_crf"]}
    values: dict[str, float] = {"parameters": result["parameters"]}
    for end, score in scores.items():
        miou, published = (score or {}).get("mean_iou"), paper.get(f"miou{end}")
        if miou is not None:
            values[f"miou{end}"] = miou
        if published is not None:
            values[f"published{end}"] = published / 100
        if miou is not None and published is not None and paper.get("comparable", True):
            values[f"difference{end}"] = miou - published / 100
    iou = (scores["_crf"] or scores[""])["iou"]
    return values | {f"iou/{name}": value for name, value in iou.items() if value is not None}
