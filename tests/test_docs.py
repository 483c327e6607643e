"""What the documentation shows can be done."""

import re
import runpy

import numpy as np
from PIL import Image

from atrous.__main__ import main
from atrous.config.place import CONF

DOCS = CONF.parent / "docs"


def test_the_picture_of_the_crf_can_be_made_again(tmp_path, monkeypatch):
    script = re.search(r"```python\n(.*?)```", (DOCS / "crf.md").read_text(), re.DOTALL)
    assert script is not None
    (tmp_path / "make.py").write_text(script[1])
    monkeypatch.chdir(tmp_path)
    runpy.run_path("make.py")
    words = ["image=photo.png", "label=label.png", "crf=v1", "steps=true"]
    assert main(["refine", *words]) == 0
    made, kept = (np.asarray(Image.open(path), int) for path in ("photo_refined_steps.png", DOCS / "crf.png"))
    assert made.shape == kept.shape
    assert (np.abs(made - kept).max(2) > 8).mean() < 1e-3
