"""A sweep's page in W&B as code: a workspace to look around in, and a report to send to somebody."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atrous.sweep.cell import Plan
from atrous.sweep.table import markdown

WIDTHS = (1, 5, 10, 20, 40)
"""Of trimaps, in pixels."""


class Dashboard:
    """`data`: the sweep's `report`; `curves`: the id of the W&B run that holds the trimap curves, if they are there."""

    def __init__(self, planned: Plan, data: Mapping[str, Any], entity: str, curves: str | None = None):
        self.ws, self.wr, self.expr = interfaces()
        self.data = data
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
        ends = ("", "_crf") if any(row["miou_crf"] for row in self.data["rows"]) else ("",)
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
        return list(next((row["iou"] for row in self.data["rows"] if row["iou"]), {}))

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
        wr, blocks = self.wr, [self.wr.MarkdownBlock(text=markdown(dict(self.data)))]
        for name, panels in self.sections().items():
            blocks += [wr.H2(text=name), self.grid(panels, self.filters())] if panels else []
        if told := trimaps(self.data):
            blocks += [wr.H2(text="Along boundaries"), wr.MarkdownBlock(text=told)]
            if self.curves:
                keys = list(trimap_curves(self.data))
                plot = wr.LinePlot(title="mean IoU in a trimap", x="width", y=keys, title_x="width in pixels")
                blocks.append(self.grid([plot], [self.expr.Metric("ID") == self.curves]))
        return wr.Report(
            entity=self.entity, project=self.project, title=self.data["title"][:128], blocks=blocks, width="fluid"
        )

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
def project_of(planned: Plan) -> str:
    """All runs of a sweep are in one."""
    told = {(cell.config["logger"] or {}).get("wandb", {}).get("project") for cell in planned.cells}
    if len(told) != 1 or None in told:
        raise ValueError("the runs of this sweep are not in one project of W&B: logger=wandb, logger.wandb.project=…")
    return str(told.pop())


def wandb_id_of(run: Path) -> str | None:
    path = run / "wandb_id"
    return path.read_text().strip() if path.exists() else None


def trimap_curves(data: Mapping[str, Any]) -> dict[str, list[float]]:
    """{trimap/<row>: % for a width of 1, 2, … pixels}"""
    curves: dict[str, list[float]] = {}
    for row in data["rows"]:
        for end, name in (("", row["row"]), ("_crf", f"{row['row']}, with the CRF")):
            if row[f"trimap{end}"]:
                curves[f"trimap/{name}"] = row[f"trimap{end}"]["mean_iou"]
    return curves


def trimaps(data: Mapping[str, Any]) -> str:
    lines = [["mean IoU within", *(f"{width} px" for width in WIDTHS)], ["---"] + ["---:"] * len(WIDTHS)]
    for name, curve in trimap_curves(data).items():
        values = [f"{curve[width - 1]:.2f}" if width <= len(curve) else "" for width in WIDTHS]
        lines.append([name.removeprefix("trimap/").replace("|", "\\|"), *values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(lines) > 2 else ""
