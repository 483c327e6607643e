"""`atrous report`: the table of a sweep, whether it has ended, still runs or lacks some of its runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from atrous.sweep.cell import plan
from atrous.sweep.files import keep, show, write

log = logging.getLogger("atrous")


def report(words: Sequence[str]) -> dict[str, Any]:
    """`words` as `atrous sweep` takes them."""
    planned = plan(words)
    data = write(planned)
    log.info(show(planned, data))
    if planned.cfg.keep:
        log.info("kept in " + " and ".join(map(str, keep(data))))
    return data
