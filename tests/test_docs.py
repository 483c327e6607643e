"""What the documentation shows can be done."""

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atrous.__main__ import main
from atrous.config.place import CONF

DOCS = CONF.parent / "docs"


def run_script(page: str) -> dict[str, Any]:
    """Run the page's script in the working directory, and return its variables."""
    script = re.search(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert script is not None
    Path("make.py").write_text(script[1])
    return runpy.run_path("make.py")


def assert_alike(made: str, kept: str) -> None:
    """Compare a picture in the working directory with one in docs: but for a few pixels the same."""
    new, old = (np.asarray(Image.open(path).convert("RGB"), int) for path in (made, DOCS / kept))
    assert new.shape == old.shape
    assert (np.abs(new - old).max(2) > 8).mean() < 1e-3


def test_the_picture_of_the_crf_can_be_made_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_script("crf.md")
    words = ["image=photo.png", "label=label.png", "crf=v1", "steps=true"]
    assert main(["refine", *words]) == 0
    assert_alike("photo_refined_steps.png", "crf.png")


def test_the_picture_of_upsampling_can_be_made_again_and_its_numbers_are_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    maps = {each.title: each.values for each in run_script("upsampling.md")["maps"]}
    assert_alike("upsampling.png", "upsampling.png")
    before, x = maps["before the pooling"], maps["max-pooling, 2 × 2"]
    np.testing.assert_array_equal(x, before.reshape(4, 2, 4, 2).max((1, 3)))
    cells = np.kron(x, np.ones((2, 2)))
    np.testing.assert_array_equal(maps["nearest neighbour"], cells)
    np.testing.assert_array_equal(maps["bed of nails"], cells * np.kron(np.ones((4, 4)), [[1, 0], [0, 0]]))
    np.testing.assert_array_equal(maps["max-unpooling"], np.where(before == cells, before, 0))
    ones = np.array([[i in (2 * k, 2 * k + 1, 2 * k + 2) for k in range(4)] for i in range(9)], int)  # (9, 4)
    np.testing.assert_array_equal(maps["transposed convolution"], ones @ x @ ones.T)
    tent = np.maximum(0, 1 - np.abs(np.subtract.outer((np.arange(8) - 0.5) / 2, np.arange(4))))  # (8, 4)
    np.testing.assert_allclose(maps["bilinear"], tent @ x @ tent.T)
    padded = [[1, 2, 3, 0, 0, 0, 0, 0, 0], [0, 0, 1, 2, 3, 0, 0, 0, 0], [0, 0, 0, 0, 1, 2, 3, 0, 0]]
    padded += [[0, 0, 0, 0, 0, 0, 1, 2, 3]]
    np.testing.assert_array_equal(maps["matrix of a convolution"], np.array(padded)[:, 1:])
