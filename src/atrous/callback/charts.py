"""Draw a run's curves and its confusion matrix when it has been tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from atrous.disk import read_metrics
from atrous.draw import chart


class Charts(L.Callback):
    """Write <run folder>/curves.png and confusion.png, after the CRF where there is one."""

    @rank_zero_only
    def on_test_end(self, trainer: L.Trainer, module: Any) -> None:
        folder = Path(trainer.default_root_dir)
        plain, refined = module.matrices
        if rows := read_metrics(folder / "metrics.csv"):
            chart.curves(rows, folder / "curves.png")
        chart.confusion(plain if refined is None else refined, module.names, folder / "confusion.png")
