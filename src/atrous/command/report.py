"""`atrous report`: the table of a sweep, whether it has ended, still runs or lacks some of its runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from atrous.sweep.files import keep, summary, write_report
from atrous.sweep.plan import Plan, make_plan
from atrous.sweep.record import SweepReport

log = logging.getLogger("atrous")


def report(overrides: Sequence[str]) -> SweepReport:
    """`overrides`: those of `atrous sweep`."""
    return write_and_show(make_plan(overrides))


def write_and_show(plan: Plan) -> SweepReport:
    written = write_report(plan)
    log.info(summary(plan, written))
    if plan.cfg.keep:
        log.info("kept in " + " and ".join(map(str, keep(written))))
    return written
