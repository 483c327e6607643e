"""`atrous dashboard`: a sweep's workspace and report in W&B, or their specification where there is no login."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from atrous.logger import default_mode, silence_wandb
from atrous.sweep.plan import make_plan
from atrous.sweep.publish import make_dashboard

log = logging.getLogger("atrous")


def dashboard(overrides: Sequence[str]) -> dict[str, Any]:
    """`overrides`: those of `atrous sweep`."""
    silence_wandb()
    online = default_mode() == "online"
    path, pages = make_dashboard(make_plan(overrides), online)
    if online:
        published = pages["published"]
        log.info(f"workspace  {published['workspace']['url']}\nreport     {published['report']['url']}")
    else:
        log.info(
            f"{path}\nthat is the specification; nothing was sent. To publish it: `wandb login`, with WANDB_MODE not "
            "set, `atrous sync` for the runs that were offline, and the same command again"
        )
    return pages
