"""A sweep's page in W&B as code: a workspace to look around in, and a report to send to somebody."""

from __future__ import annotations

import json
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from atrous.sweep.cell import Cell, Plan

WIDTHS = (1, 5, 10, 20, 40)
"""Of trimaps, in pixels."""


class Dashboard:
    """`curves`: the id of the W&B run that holds the trimap curves, if they are there already."""

    def __init__(self, planned: Plan, entity: str, curves: str | None = None):
        self.ws, self.wr, self.expr = interfaces()
        self.rows, self.title = planned.rows(), title_of(planned)
        self.entity, self.project = entity, project_of(planned)
        self.name, self.curves = planned.name, curves
        self.ids = [wandb_id for cell in planned.cells if (wandb_id := wandb_id_of(cell.path))]

    # ---- which runs, and what of them ---------------------------------------------------------------------------
    def filters(self) -> Any:
        """Those of the sweep's group, and those that it found there already, trained by themselves."""
        group = self.expr.Config("sweep") == self.name
        return self.expr.Or(group, self.expr.Metric("ID").isin(self.ids)) if self.ids else [group]

    def sections(self) -> dict[str, list[Any]]:
        """{title: panels}. All names in them are those by which runs log."""
        wr, row = self.wr, self.wr.Config("row")
        ends = ("", "_crf") if any(cell.config["crf"] for cells in self.rows.values() for cell in cells) else ("",)
        curve = {"x": "trainer/global_step", "groupby": row, "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
        bars = {"groupby": row, "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
        columns = [
            wr.Config("row"),
            wr.Config("seed"),
            *map(wr.SummaryMetric, ["parameters", *(f"miou{e}" for e in ends)]),
        ]
        return {
            "Learning curves": [
                wr.LinePlot(title=title, y=[key], **curve)
                for title, key in (("mean IoU", "val/miou"), ("loss", "train/loss"), ("learning rate", "lr/weight"))
            ],
            "Mean IoU": [
                *(wr.BarPlot(title=f"miou{end}", metrics=[f"miou{end}"], **bars) for end in ends),
                wr.ScatterPlot(
                    title="mean IoU against parameters",
                    x=wr.SummaryMetric("parameters"),
                    y=wr.SummaryMetric(f"miou{ends[-1]}"),
                ),
                wr.ParallelCoordinatesPlot(columns=[wr.ParallelCoordinatesPlotColumn(metric=c) for c in columns]),
            ],
            "Classes": [wr.BarPlot(title=f"IoU of {c}", metrics=[f"iou/{c}"], **bars) for c in self.classes()],
            "Pictures": [wr.MediaBrowser(title="truth, prediction, CRF", media_keys=["val/pictures"])],
        }

    def classes(self) -> list[str]:
        """Known from the first run that has ended."""
        found = (result for cells in self.rows.values() for result in results(cells))
        return list(next((result["scores"]["iou"] for result in found), {}))

    # ---- the two pages ------------------------------------------------------------------------------------------
    def workspace(self) -> Any:
        ws, columns = self.ws, ["config:row", "config:seed", "summary:miou", "summary:miou_crf"]
        columns += ["summary:published", "summary:published_crf", "summary:difference", "summary:difference_crf"]
        sections = [ws.Section(name=name, panels=panels, is_open=True) for name, panels in self.sections().items()]
        return ws.Workspace(
            entity=self.entity,
            project=self.project,
            name=without_symbols(self.name),
            sections=sections,
            runset_settings=ws.RunsetSettings(
                filters=self.filters(), groupby=[ws.Config("row")], pinned_columns=columns
            ),
        )

    def report(self) -> Any:
        wr, blocks = self.wr, [self.wr.MarkdownBlock(text=ablation(self.rows))]
        for name, panels in self.sections().items():
            blocks += [wr.H2(text=name), self.grid(panels, self.filters())] if panels else []
        if told := trimaps(self.rows):
            blocks += [wr.H2(text="Along boundaries"), wr.MarkdownBlock(text=told)]
            if self.curves:
                keys = list(trimap_curves(self.rows))
                plot = wr.LinePlot(title="mean IoU in a trimap", x="width", y=keys, title_x="width in pixels")
                blocks.append(self.grid([plot], [self.expr.Metric("ID") == self.curves]))
        return wr.Report(entity=self.entity, project=self.project, title=self.title[:128], blocks=blocks, width="fluid")

    def grid(self, panels: list[Any], filters: Any) -> Any:
        runs = self.wr.Runset(entity=self.entity, project=self.project, name=self.name, filters=filters)
        return self.wr.PanelGrid(runsets=[runs], panels=panels)


def interfaces() -> tuple[Any, Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is written for pydantic 1
            import wandb_workspaces.reports.v2 as wr
            import wandb_workspaces.workspaces as ws
            from wandb_workspaces import expr
    except ImportError:
        raise ValueError(
            "`atrous dashboard` needs the package wandb-workspaces: pip install 'atrous[dashboard]'"
        ) from None
    return ws, wr, expr


def specification(page: Any) -> dict[str, Any]:
    """What would be sent to the server for it."""
    return page._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)


def without_symbols(name: str) -> str:
    """A workspace's name must have none, and `=` is one."""
    return "".join(" " if unicodedata.category(letter).startswith("S") else letter for letter in name)


# ---- what the runs have found ---------------------------------------------------------------------------------------
def title_of(planned: Plan) -> str:
    table = planned.cfg.get("table")
    return str(table.title) if table else planned.name


def project_of(planned: Plan) -> str:
    """All runs of a sweep are in one."""
    told = {(cell.config["logger"] or {}).get("wandb", {}).get("project") for cell in planned.cells}
    if len(told) != 1 or None in told:
        raise ValueError("the runs of this sweep are not in one project of W&B: logger=wandb, logger.wandb.project=…")
    return str(told.pop())


def wandb_id_of(run: Path) -> str | None:
    path = run / "wandb_id"
    return path.read_text().strip() if path.exists() else None


def results(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    return [found for cell in cells if (found := cell.folder.finished())]


def ablation(rows: Mapping[str, list[Cell]]) -> str:
    """The table of the sweep in Markdown, in %."""
    head = ["", "mean IoU", "published", "difference", "with the CRF", "published", "difference", "parameters", "seeds"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for row, cells in rows.items():
        found, paper = results(cells), cells[0].config["paper"] or {}
        cell = [label(row, cells[0])]
        for end in ("", "_crf"):
            ours = [100 * result[f"scores{end}"]["mean_iou"] for result in found if result[f"scores{end}"]]
            cell += [spread(ours), *published(ours, paper.get(f"miou{end}"), paper.get("comparable", True))]
        cell += [f"{found[0]['parameters'] / 1e6:.2f} M" if found else "", f"{len(found)}/{len(cells)}"]
        lines.append(cell)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def label(row: str, cell: Cell) -> str:
    return str((cell.config["paper"] or {}).get("row") or row).replace("|", "\\|")


def spread(values: list[float]) -> str:
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "") if values else ""


def published(ours: list[float], theirs: float | None, comparable: bool) -> list[str]:
    if theirs is None or not comparable:  # on other data the published number is no measure
        return ["", ""]
    return [f"{theirs:.2f}", f"{mean(ours) - theirs:+.2f}" if ours else ""]


def trimap_curves(rows: Mapping[str, list[Cell]]) -> dict[str, list[float]]:
    """{trimap/<row>: the mean over its seeds for a width of 1, 2, … pixels}, of runs that `atrous evaluate` scored."""
    curves: dict[str, list[float]] = {}
    for row, cells in rows.items():
        told = [scored for cell in cells if cell.folder.finished() and (scored := evaluated(cell.path)) is not None]
        for end, name in (("", row), ("_crf", f"{row}, with the CRF")):
            found = [result[f"trimap{end}"]["mean_iou"] for result in told if result.get(f"trimap{end}")]
            if found:
                curves[f"trimap/{name}"] = [mean(values) for values in zip(*found)]
    return curves


def evaluated(run: Path) -> dict[str, Any] | None:
    """What it found last."""
    paths = sorted(run.glob("evaluate/*/result.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(paths[-1].read_text()) if paths else None


def trimaps(rows: Mapping[str, list[Cell]]) -> str:
    lines = [["mean IoU within", *(f"{width} px" for width in WIDTHS)], ["---"] + ["---:"] * len(WIDTHS)]
    for name, curve in trimap_curves(rows).items():
        values = [f"{100 * curve[width - 1]:.2f}" if width <= len(curve) else "" for width in WIDTHS]
        lines.append([name.removeprefix("trimap/").replace("|", "\\|"), *values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(lines) > 2 else ""
