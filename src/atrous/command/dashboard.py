"""`atrous dashboard`: a sweep's workspace and report in W&B, or their specification where there is no login."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atrous.disk import make_folder, write_whole
from atrous.logger import default_mode, silence_wandb
from atrous.sweep.cell import Plan, plan
from atrous.sweep.dashboard import Dashboard, project_of, specification, trimap_curves
from atrous.sweep.report import report

log = logging.getLogger("atrous")


def dashboard(words: Sequence[str]) -> dict[str, Any]:
    """`words` as `atrous sweep` takes them. Writes dashboard.json beside the sweep's other files."""
    silence_wandb()
    planned = plan(words)
    project_of(planned)
    path = make_folder(planned.folder, "sweeps") / "dashboard.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    data, online = report(planned), default_mode() == "online"
    if online:
        made = sent(planned, data, before)
    else:
        made = pages(Dashboard(planned, data, entity=""))  # with one, the server is asked about it
        made |= {"published": before["published"]} if "published" in before else {}
    write_whole(path, json.dumps(made, indent=2).encode())
    tell(made, path, online)
    return made


def pages(built: Dashboard) -> dict[str, Any]:
    return {"workspace": specification(built.workspace()), "report": specification(built.report())}


def sent(planned: Plan, data: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    import wandb

    try:
        return publish(planned, data, before)
    except wandb.Error as error:
        raise ValueError(f"W&B did not take it ({error}): try again, or WANDB_MODE=offline") from None


def publish(planned: Plan, data: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The pages that were published before are written anew in their place."""
    import wandb

    api, project = wandb.Api(), project_of(planned)
    entity = os.environ.get("WANDB_ENTITY") or str(api.default_entity)
    if project not in {known.name for known in api.projects(entity)}:
        raise ValueError(f"W&B knows no project {entity}/{project} yet: `atrous sync` sends the runs first")
    built = Dashboard(planned, data, entity, send_trimaps(planned, data, entity))
    workspace, report, known = built.workspace(), built.report(), before.get("published") or {}
    if known.get("entity") == entity and known.get("project") == built.project:
        workspace._internal_id, workspace._internal_name = known["workspace"]["id"], known["workspace"]["name"]
        report.id = known["report"]["id"]
    workspace.save()
    report.save()
    told = {
        "entity": entity,
        "project": built.project,
        "workspace": {"id": workspace._internal_id, "name": workspace._internal_name, "url": workspace.url},
        "report": {"id": report.id, "url": report.url},
    }
    return {"workspace": specification(workspace), "report": specification(report), "published": told}


def send_trimaps(planned: Plan, data: dict[str, Any], entity: str) -> str | None:
    """`atrous evaluate` has no W&B run of its own: one for the whole sweep holds the curves that it found."""
    import wandb

    curves = trimap_curves(data)
    if not curves:
        return None
    project, folder = project_of(planned), make_folder(planned.folder, "sweeps")
    run: Any = wandb.init(
        entity=entity,
        project=project,
        name="along boundaries",
        group=planned.name,
        job_type="trimap",
        dir=folder,
    )
    with run:
        run.define_metric("trimap/*", step_metric="width")
        for width in range(1, 1 + max(map(len, curves.values()))):
            run.log({"width": width} | {key: curve[width - 1] for key, curve in curves.items() if width <= len(curve)})
    return str(run.id)


def tell(made: dict[str, Any], path: Path, online: bool) -> None:
    if online:
        log.info(f"workspace  {made['published']['workspace']['url']}\nreport     {made['published']['report']['url']}")
        return
    log.info(
        f"{path}\nthat is the specification; nothing was sent. To publish it: `wandb login`, with WANDB_MODE not set, "
        "`atrous sync` for the runs that were offline, and the same command again"
    )
