"""A sweep's pages in W&B as code: a workspace to look around in, and a report to send to somebody."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path
from typing import Any

from atrous.sweep.plan import Plan
from atrous.sweep.record import ENDS, SweepReport
from atrous.sweep.render import escape_cell, markdown

WIDTHS = (1, 5, 10, 20, 40)
"""The trimaps that are shown, in pixels."""


class Dashboard:
    """`curves`: the id of the W&B run that holds the trimap curves, if there is one."""

    def __init__(self, plan: Plan, report: SweepReport, entity: str, curves: str | None = None):
        self.ws, self.wr, self.expr = interfaces()
        self.data = report
        self.entity, self.project = entity, project_of(plan)
        self.name, self.curves = plan.name, curves
        self.ids = [wandb_id for cell in plan.cells if (wandb_id := wandb_id_of(cell.path))]

    # ---- which runs, and what of them ---------------------------------------------------------------------------
    def filters(self) -> Any:
        """The runs of the sweep's group, and those of its runs that were trained before, by themselves."""
        group = self.expr.Config("sweep") == self.name
        return self.expr.Or(group, self.expr.Metric("ID").isin(self.ids)) if self.ids else [group]

    def sections(self) -> dict[str, list[Any]]:
        """{title: panels}, by the names under which runs log."""
        ends = ENDS if any(row.scores["_crf"].miou for row in self.data.rows) else ("",)
        return {
            "Learning curves": self.learning_curves(),
            "Mean IoU": self.mean_iou(ends),
            "Classes": [self.bars(f"IoU of {name}", f"iou/{name}") for name in self.classes()],
            "Pictures": [self.wr.MediaBrowser(title="truth, prediction, CRF", media_keys=["val/pictures"])],
        }

    def learning_curves(self) -> list[Any]:
        titles = {"val/miou": "mean IoU", "train/loss": "loss", "lr/weight": "learning rate"}
        return [
            self.wr.LinePlot(title=title, x="trainer/global_step", y=[key], **self.over_seeds())
            for key, title in titles.items()
        ]

    def mean_iou(self, ends: tuple[str, ...]) -> list[Any]:
        wr, names = self.wr, [f"miou{end}" for end in ends]
        parameters, last = wr.SummaryMetric("parameters"), wr.SummaryMetric(names[-1])
        columns = [wr.Config("row"), wr.Config("seed"), parameters, *map(wr.SummaryMetric, names)]
        return [
            *(self.bars(name, name) for name in names),
            wr.ScatterPlot(title="mean IoU against parameters", x=parameters, y=last),
            wr.ParallelCoordinatesPlot(columns=[wr.ParallelCoordinatesPlotColumn(metric=c) for c in columns]),
        ]

    def bars(self, title: str, metric: str) -> Any:
        return self.wr.BarPlot(title=title, metrics=[metric], **self.over_seeds())

    def over_seeds(self) -> dict[str, Any]:
        """Group runs by their row: the mean over the seeds, and their deviation."""
        return {"groupby": self.wr.Config("row"), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}

    def classes(self) -> list[str]:
        """Known from the first run that has ended."""
        return list(next((row.scores[""].iou for row in self.data.rows if row.scores[""].iou), {}))

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
        wr, blocks = self.wr, [self.wr.MarkdownBlock(text=markdown(self.data))]
        for name, panels in self.sections().items():
            blocks += [wr.H2(text=name), self.grid(panels, self.filters())] if panels else []
        if table := trimap_table(self.data):
            blocks += [wr.H2(text="Along boundaries"), wr.MarkdownBlock(text=table)]
            if self.curves:
                keys = list(trimap_curves(self.data))
                plot = wr.LinePlot(title="mean IoU in a trimap", x="width", y=keys, title_x="width in pixels")
                blocks.append(self.grid([plot], [self.expr.Metric("ID") == self.curves]))
        return wr.Report(
            entity=self.entity, project=self.project, title=self.data.title[:128], blocks=blocks, width="fluid"
        )

    def grid(self, panels: list[Any], filters: Any) -> Any:
        runs = self.wr.Runset(entity=self.entity, project=self.project, name=self.name, filters=filters)
        return self.wr.PanelGrid(runsets=[runs], panels=panels)


def interfaces() -> tuple[Any, Any, Any]:
    """wandb-workspaces, an optional extra: its modules for workspaces, for reports, and for filters."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is written for pydantic 1
            import wandb_workspaces.reports.v2 as wr  # an optional extra
            import wandb_workspaces.workspaces as ws
            from wandb_workspaces import expr
    except ImportError:
        raise ValueError(
            "`atrous dashboard` needs the package wandb-workspaces: pip install 'atrous[dashboard]'"
        ) from None
    return ws, wr, expr


def specification(page: Any) -> dict[str, Any]:
    """A page as it is sent to the server."""
    return page._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)


def without_symbols(name: str) -> str:
    """A workspace's name must have no symbols, and `=` is one."""
    return "".join(" " if unicodedata.category(letter).startswith("S") else letter for letter in name)


# ---- what is shown --------------------------------------------------------------------------------------------------
def project_of(plan: Plan) -> str:
    """The W&B project of all runs."""
    projects = {(cell.config["logger"] or {}).get("wandb", {}).get("project") for cell in plan.cells}
    if len(projects) != 1 or None in projects:
        raise ValueError("the runs of this sweep are not in one project of W&B: logger=wandb, logger.wandb.project=…")
    return str(projects.pop())


def wandb_id_of(run: Path) -> str | None:
    path = run / "wandb_id"
    return path.read_text().strip() if path.exists() else None


def trimap_curves(report: SweepReport) -> dict[str, list[float]]:
    """{trimap/<row>: % for a width of 1, 2, … pixels}"""
    curves: dict[str, list[float]] = {}
    for row in report.rows:
        for end, name in (("", row.row), ("_crf", f"{row.row}, with the CRF")):
            if trimap := row.scores[end].trimap:
                curves[f"trimap/{name}"] = trimap["mean_iou"]
    return curves


def trimap_table(report: SweepReport) -> str:
    """The curves at some widths, in Markdown; empty where there are none."""
    lines = [["mean IoU within", *(f"{width} px" for width in WIDTHS)], ["---"] + ["---:"] * len(WIDTHS)]
    for name, curve in trimap_curves(report).items():
        values = [f"{curve[width - 1]:.2f}" if width <= len(curve) else "" for width in WIDTHS]
        lines.append([escape_cell(name.removeprefix("trimap/")), *values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(lines) > 2 else ""
