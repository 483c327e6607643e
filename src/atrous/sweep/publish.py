"""Publish a sweep's pages in W&B. Without a login their specification is a file, and nothing is sent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from atrous.disk import make_folder, write_whole
from atrous.sweep.dashboard import Dashboard, project_of, specification, trimap_curves
from atrous.sweep.plan import Plan
from atrous.sweep.record import SweepReport
from atrous.sweep.report import make_report


def make_dashboard(plan: Plan, online: bool) -> tuple[Path, dict[str, Any]]:
    """Write dashboard.json into the sweep's folder, and return its path and content: {"workspace": …, "report": …}, and
    "published" with their addresses if they have been sent."""
    project_of(plan)
    path = make_folder(plan.folder, "sweeps") / "dashboard.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    report = make_report(plan)
    if online:
        pages = publish(plan, report, before)
    else:
        pages = specifications(Dashboard(plan, report, entity=""))  # an entity would be looked up on the server
        pages |= {"published": before["published"]} if "published" in before else {}
    write_whole(path, json.dumps(pages, indent=2).encode())
    return path, pages


def specifications(dashboard: Dashboard) -> dict[str, Any]:
    return {"workspace": specification(dashboard.workspace()), "report": specification(dashboard.report())}


def publish(plan: Plan, report: SweepReport, before: dict[str, Any]) -> dict[str, Any]:
    import wandb  # takes a second to import

    try:
        return send(plan, report, before)
    except wandb.Error as error:
        raise ValueError(f"W&B did not take it ({error}): try again, or WANDB_MODE=offline") from None


def send(plan: Plan, report: SweepReport, before: dict[str, Any]) -> dict[str, Any]:
    """Pages that were published before are replaced, at the same addresses."""
    import wandb  # takes a second to import

    api, project = wandb.Api(), project_of(plan)
    entity = os.environ.get("WANDB_ENTITY") or str(api.default_entity)
    if project not in {known.name for known in api.projects(entity)}:
        raise ValueError(f"W&B knows no project {entity}/{project} yet: `atrous sync` sends the runs first")
    dashboard = Dashboard(plan, report, entity, send_trimaps(plan, report, entity))
    workspace, page, known = dashboard.workspace(), dashboard.report(), before.get("published") or {}
    if known.get("entity") == entity and known.get("project") == dashboard.project:
        workspace._internal_id, workspace._internal_name = known["workspace"]["id"], known["workspace"]["name"]
        page.id = known["report"]["id"]
    workspace.save()
    page.save()
    published = {
        "entity": entity,
        "project": dashboard.project,
        "workspace": {"id": workspace._internal_id, "name": workspace._internal_name, "url": workspace.url},
        "report": {"id": page.id, "url": page.url},
    }
    return {"workspace": specification(workspace), "report": specification(page), "published": published}


def send_trimaps(plan: Plan, report: SweepReport, entity: str) -> str | None:
    """Log the trimap curves, and return the id of their W&B run. `atrous evaluate` has none of its own: one run holds
    the curves of the whole sweep."""
    import wandb  # takes a second to import

    curves = trimap_curves(report)
    if not curves:
        return None
    project, folder = project_of(plan), make_folder(plan.folder, "sweeps")
    run: Any = wandb.init(
        entity=entity,
        project=project,
        name="along boundaries",
        group=plan.name,
        job_type="trimap",
        dir=folder,
    )
    with run:
        run.define_metric("trimap/*", step_metric="width")
        for width in range(1, 1 + max(map(len, curves.values()))):
            run.log({"width": width} | {key: curve[width - 1] for key, curve in curves.items() if width <= len(curve)})
    return str(run.id)
