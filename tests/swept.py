"""Runs of a sweep as they are on disk once they have ended, without the hours of training."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from atrous.digest import file_digest
from atrous.metric.bootstrap import parts
from atrous.metric.confusion import Scores
from atrous.sweep.cell import Cell
from atrous.sweep.plan import make_plan

NAMES = ("sky", "sea", "sand", "sun")
PALETTE = np.array([[0, 0, 0], [20, 60, 200], [230, 200, 120], [250, 230, 0]], np.uint8)


def cells_of(*overrides: str) -> list[Cell]:
    return make_plan(overrides).cells


def confusions(share: float, seed: int, pictures: int = 12) -> np.ndarray:
    """(N, 4, 4) counts of pictures whose pixels are right to about this share."""
    rng = np.random.default_rng(seed)
    size = 100 + rng.integers(0, 100, (pictures, 4))
    hit = rng.binomial(size, share)
    matrix = np.stack([rng.multinomial(each, [0.25] * 4) for each in (size - hit).ravel()]).reshape(pictures, 4, 4)
    return matrix + hit[..., None] * np.eye(4, dtype=int)


def end(cell: Cell, share: float, seed: int = 0, crf: float | None = None, evaluated: bool = True) -> dict[str, Any]:
    """End a run: `share` of its pixels is right, after the CRF `crf` of them."""
    plain = confusions(share, seed)
    refined = None if crf is None else confusions(crf, seed)
    scores = [None if each is None else Scores.of(each.sum(0)).as_dict(NAMES) for each in (plain, refined)]
    node = cell.config["crf"]
    protocol = {
        "dataset": cell.config["data"]["_target_"],
        "split": "val",
        "pictures": 12,
        "list": "0123456789ab",
        "size": "native",
        "scales": [1.0],
        "flip": False,
        "fuse": "scores",
        "slide": None,
        "ignore": 255,
        "crf": None if node is None else {key: value for key, value in node.items() if key != "chosen_on"},
    }
    result: dict[str, Any] = {
        "schema": 1,
        "name": cell.row,
        "seed": cell.seed,
        "config_hash": cell.folder.digest,
        "parameters": 37_877_652,
        "scores": scores[0],
        "scores_crf": scores[1],
        "best_validation": None,
        "protocol": protocol,
        "seconds": {"train": 3000.0, "test": 600.0},
        "devices": 2,
        "paper": cell.config["paper"],
    }
    cell.path.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(cell.config), cell.path / "config.yaml")
    (cell.path / "result.json").write_text(json.dumps(result))
    rows = [f"{step},{0.5 * share + 0.0005 * step}" for step in (250, 500, 750)]
    (cell.path / "metrics.csv").write_text("\n".join(["step,val/miou", "10,", *rows]))
    save_pictures(cell)
    if evaluated:
        evaluate(cell, result, [plain, refined])
    return result


def evaluate(cell: Cell, result: dict[str, Any], matrices: Sequence[np.ndarray | None], name: str = "val") -> None:
    folder = cell.path / "evaluate" / name
    folder.mkdir(parents=True)
    trimap = {"width": list(range(1, 41)), "mean_iou": [0.3 + 0.01 * width for width in range(40)]}
    scored = {
        "of": file_digest(cell.path / "result.json"),
        "trimap": trimap,
        "trimap_crf": trimap if result["scores_crf"] else None,
    }
    (folder / "result.json").write_text(json.dumps(result | scored))
    counts = {f"parts{end}": parts(each) for end, each in zip(("", "_crf"), matrices) if each is not None}
    file = io.BytesIO()
    np.savez_compressed(file, names=np.array([f"p{k}" for k in range(12)]), **counts)  # type: ignore[arg-type]
    (folder / "pictures.npz").write_bytes(file.getvalue())


def save_pictures(cell: Cell) -> None:
    rng = np.random.default_rng(cell.seed)
    pictures: dict[str, Any] = {"names": np.array(["one", "two"]), "classes": np.array(NAMES), "palette": PALETTE}
    for k in range(2):
        pictures[f"image_{k}"] = np.full((24, 32, 3), 90 * k, np.uint8)
        pictures |= {
            f"{kind}_{k}": rng.integers(0, 4, (24, 32), np.uint8) for kind in ("label", "prediction", "refined")
        }
    (cell.path / "pictures").mkdir()
    np.savez_compressed(cell.path / "pictures" / "last.npz", **pictures)
