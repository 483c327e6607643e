import csv
import io

import numpy as np
import pytest
from PIL import Image

from atrous.crf.search import Grid
from atrous.draw import chart


def size(path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_curves_draw_a_chart_for_each_thing_that_was_logged(tmp_path):
    loss = [{"step": k, "train/loss": 1 / (k + 1)} for k in range(100)]
    miou = [{"step": 50, "val/miou": 0.5, "val/miou_crf": 0.6}, {"step": 99, "val/miou": 0.7, "val/miou_crf": 0.75}]
    rate = [{"step": k, "lr/backbone": 1e-3, "lr/classifier": 1e-2} for k in range(0, 100, 10)]
    widths = []
    for rows in (loss, loss + miou, loss + miou + rate):
        chart.curves(rows, tmp_path / "curves.png")
        widths.append(size(tmp_path / "curves.png")[0])
    np.testing.assert_allclose(widths, [widths[0], 2 * widths[0], 3 * widths[0]], atol=3)


def test_curves_read_a_metrics_file_as_text_with_holes_and_nans(tmp_path):
    text = "step,train/loss,val/miou\n1,2.5,\n2,nan,\n3,1.5,0.25\n"
    chart.curves(list(csv.DictReader(io.StringIO(text))), tmp_path / "curves.png")
    assert size(tmp_path / "curves.png")[0] > 1000


def test_curves_of_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`rows` hold nothing to draw"):
        chart.curves([{"step": 1, "train/loss": float("nan")}], tmp_path / "curves.png")


@pytest.mark.parametrize("count", [1, 7, 60])
def test_a_confusion_matrix_gives_every_class_room_for_its_name_and_number(tmp_path, count):
    matrix = np.eye(count, dtype=np.int64) * 1000
    matrix[0, 0] = 0  # a class without truth
    chart.confusion(matrix, [f"class number {k}" for k in range(count)], tmp_path / "confusion.png")
    assert min(size(tmp_path / "confusion.png")) > 30 * count


def test_a_confusion_matrix_of_another_size_than_its_names_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`matrix` must be \(3, 3\).*got \(2, 2\)"):
        chart.confusion(np.eye(2), ["ground", "disc", "ring"], tmp_path / "confusion.png")


def test_drawing_touches_no_state_of_pyplot(tmp_path):
    import sys

    before = "matplotlib.pyplot" in sys.modules
    chart.confusion(np.eye(3), ["ground", "disc", "ring"], tmp_path / "confusion.png")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_the_published_trimaps_are_those_of_the_papers_figure_and_rise_with_the_width():
    at = dict(zip(chart.TRIMAP_WIDTHS, zip(*(miou for miou, _ in chart.TRIMAPS.values()))))
    assert (at[1], at[10], at[40]) == ((39.1, 43.3, 45.9, 48.0), (50.8, 54.4, 55.7, 57.6), (60.4, 62.3, 63.7, 64.8))
    for curves in chart.TRIMAPS.values():
        for curve in curves:
            assert len(curve) == len(chart.TRIMAP_WIDTHS)
            assert list(curve) == sorted(set(curve))


def test_trimaps_are_drawn_with_and_without_the_published_ones(tmp_path):
    curve: dict[str, list[float]] = {"width": [*range(1, 41)], "mean_iou": [0.5] * 40, "pixel_accuracy": [0.8] * 40}
    for published in (False, True):
        chart.trimaps({"network": curve}, tmp_path / f"{published}.png", "val", published)
    assert size(tmp_path / "False.png") == size(tmp_path / "True.png")
    assert (tmp_path / "False.png").read_bytes() != (tmp_path / "True.png").read_bytes()


def test_a_search_is_drawn_with_its_best_outlined(tmp_path):
    grid = Grid(w1=[3, 4], sigma_alpha=[30, 40, 50], sigma_beta=[3, 4])
    rounds = [{point: 0.5 + point.w1 / 100 + point.sigma_alpha / 1000 for point in grid.coarse()}]
    best = max(rounds[0], key=lambda point: rounds[0][point])
    rounds.append(dict.fromkeys(grid.finer(best, 1), 0.6))
    chart.heat_maps(rounds, tmp_path / "search.png", "mean IoU")
    picture = np.asarray(Image.open(tmp_path / "search.png").convert("RGB")).astype(int)
    outline = (np.abs(picture - (213, 94, 0)).sum(2) < 12).sum(1)  # by row
    assert (outline > 30).sum() >= 4  # an upper and a lower edge in each round


def of_colour(path, rgb: str, opacity: float = 1) -> int:
    """Pixels of this colour, over white."""
    wanted = [opacity * int(rgb[k : k + 2], 16) + (1 - opacity) * 255 for k in (1, 3, 5)]
    return int((np.abs(np.asarray(Image.open(path).convert("RGB")) - np.array(wanted)) < 2).all(2).sum())


@pytest.mark.parametrize(
    ("interval", "rgb"),
    [((0.02, 0.01, 0.03), chart.BETTER), ((-0.02, -0.03, -0.01), chart.WORSE), ((0.01, -0.01, 0.03), chart.UNCLEAR)],
    ids=["better", "worse", "unclear"],
)
def test_a_difference_has_its_verdicts_colour(tmp_path, interval, rgb):
    nothing = float("nan")
    rows = [("mean", *interval), ("ring", *interval), ("absent", nothing, nothing, nothing)]
    pixels = {}
    for name, drawn in (("all", rows), ("none", [("mean", nothing, nothing, nothing)] * 3)):
        chart.differences(drawn, np.array([0.1, -0.1, 0.0, nothing]), tmp_path / f"{name}.png", "b minus a")
        pixels[name] = of_colour(tmp_path / f"{name}.png", rgb)
    assert pixels["all"] > pixels["none"] + 200


def test_the_pictures_gains_are_drawn_on_either_side_also_where_there_are_none(tmp_path):
    rows = [("mean", 0.0, 0.0, 0.0)]
    drawn = {}
    for name, change in (("gain", [0.2] * 9), ("loss", [-0.2] * 9), ("same", [0.0] * 9), ("void", [float("nan")] * 9)):
        path = tmp_path / f"{name}.png"
        chart.differences(rows, np.array(change), path, "b minus a")
        drawn[name] = [of_colour(path, rgb, 0.75) for rgb in (chart.BETTER, chart.WORSE)]
        assert min(size(path)) > 400
    assert drawn["gain"][0] > drawn["same"][0] + 1000
    assert drawn["loss"][1] > drawn["same"][1] + 1000
    assert drawn["gain"][1] < 100


@pytest.mark.parametrize("classes", [1, 60, 182])
def test_differences_give_every_class_a_row(tmp_path, classes):
    rows = [(f"class number {k}", 0.01, -0.02, 0.04) for k in range(classes)]
    chart.differences(rows, np.zeros(5), tmp_path / "differences.png", "b minus a")
    assert size(tmp_path / "differences.png")[1] > 30 * classes
