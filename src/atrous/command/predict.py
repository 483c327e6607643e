"""`atrous predict`: your own pictures and videos, segmented by a trained network."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from omegaconf import DictConfig
from PIL import Image

from atrous.disk import make_folder
from atrous.inference.batch_files import check_written, end_with
from atrous.inference.predict import PredictionWriter, pictures, predict_all
from atrous.inference.predict_job import find_files, plan
from atrous.inference.predict_settings import VERB
from atrous.inference.predictor import open_predictor

log = logging.getLogger("atrous")


def predict(cfg: DictConfig) -> Path:
    """Predict the pictures that `cfg` names, write the files, return their folder."""
    if cfg.alpha is None or not 0 <= cfg.alpha <= 1:
        raise ValueError(f"`alpha` must be 0 to 1 (got {cfg.alpha}): alpha=0.5")
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a large picture of one's own is no attack
    top, sources = find_files(cfg.images)
    write = PredictionWriter(open_predictor(cfg), cfg.overlay, cfg.alpha, cfg.legend, cfg.probs)
    out = write.predictor.home / "predict" if cfg.out is None else Path(str(cfg.out)).expanduser()
    jobs = plan(top, sources, out, cfg.overlay)
    check_written([job.source for job in jobs], [path for job in jobs for path in write.files(job)], "_overlay")
    todo = [job for job in jobs if not write.finished(job)]
    for folder in {out, *(job.out.parent for job in todo)}:
        make_folder(folder, "out")
    failures = predict_all(write, todo)
    if len(jobs) > 1:
        before = f", {len(jobs) - len(todo):,} were there, made with these settings" if len(todo) < len(jobs) else ""
        log.info(f"{out}: {pictures(len(todo) - len(failures))} predicted{before}")
        end_with(failures, len(jobs), VERB, "predicted")
    elif failures:
        raise SystemExit(f"{VERB}: {failures[0]}")
    else:
        end = "" if todo else " was there, made with these settings"
        log.info("\n".join(f"{path}{end}" for path in write.files(jobs[0])))
    return out
