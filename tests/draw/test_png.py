import numpy as np
import pytest
from PIL import Image

from atrous.batch import IGNORE, LabelSpace
from atrous.draw.png import save, save_index

LABELS = LabelSpace(["ground", "disc", "ring"])
LABEL = np.array([[0, 1], [2, IGNORE]], np.uint8)
# PASCAL's first three colours and its void, as printed in its development kit.
COLOURS = np.array([[(0, 0, 0), (128, 0, 0)], [(0, 128, 0), (224, 224, 192)]], np.uint8)


def test_an_index_png_keeps_the_indices_and_opens_in_the_right_colours(tmp_path):
    save_index(tmp_path / "a.png", LABEL, LABELS.palette)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.array(picture), LABEL)
        np.testing.assert_array_equal(np.array(picture.convert("RGB")), COLOURS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    save(tmp_path / "a.png", COLOURS)
    old = (tmp_path / "a.png").read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)  # the new file is written, but not yet in the old one's place
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "a.png", 255 - COLOURS)
    assert (tmp_path / "a.png").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
