import base64
import io
import json
import re
import zlib

import numpy as np
import pytest
import torch
from browser import chromium, page
from hydra import compose, initialize_config_dir
from PIL import Image
from running import atrous

from atrous.__main__ import main
from atrous.batch import IGNORE, LabelSpace
from atrous.command.worst import check_length, worst
from atrous.config.override import absences
from atrous.config.place import CONF
from atrous.draw.colour import MENDED, SPOILT, UNCOUNTED, WRONG, errors
from atrous.draw.worst_page import error_url, render
from atrous.evaluation.evaluator import open_evaluator
from atrous.evaluation.worst import choose, confusions, rank
from atrous.metric.bootstrap import parts
from atrous.metric.confusion import Scores, confusion

NASTY = """</script><script>document.title = "mine"</script><!-- <b title='&amp;'>&"""


def configured(verb, folder, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(verb, absences(["workers=1", f"run='{folder}'", *overrides]))


def data_of(path):
    result = re.search(r'<script id="data" type="application/json">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert result
    return json.loads(result[1])


def made(folder, *overrides):
    """The data of the page, and the evaluator that it is of."""
    path = worst(configured("worst", folder, *overrides))
    crf = [word for word in overrides if word.startswith(("crf", "tta"))]
    return data_of(path), open_evaluator(configured("evaluate", folder, *crf))


def picture_of(url):
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        picture.load()
        return picture


def labels_of(card):
    width, height = card["shown"]
    return np.frombuffer(zlib.decompress(base64.b64decode(card["packed"])), np.uint8).reshape(-1, height, width)


# ---- which pictures -------------------------------------------------------------------------------------------------
def random_counts(pictures=40, classes=5, seed=0):
    """Of pictures with some classes each; the last is all void."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 60, (pictures, classes, classes)) * (rng.random((pictures, classes, 1)) < 0.6)
    counts[-1] = 0
    return counts + (rng.integers(0, 900, (pictures, classes)) * (counts.sum(2) > 0))[..., None] * np.eye(5, dtype=int)


def by_hand(counts):
    """[(IoU of each class, their mean, pixels of each class)] of each picture, class by class."""
    result = []
    for matrix in counts:
        ious = {}
        for k in range(len(matrix)):
            union = sum(matrix[k]) + sum(matrix[:, k]) - matrix[k, k]
            if union:
                ious[k] = matrix[k, k] / union
        mean = sum(ious.values()) / len(ious) if ious else None
        result.append((ious, mean, [sum(row) for row in matrix]))
    return result


def test_the_worst_are_those_of_a_search_through_all():
    counts = random_counts()
    overall, by_class = choose(parts(counts), 7, 4, 150)
    message = by_hand(counts)
    means = [(mean, index) for index, (_, mean, _) in enumerate(message) if mean is not None]
    assert overall == [index for _, index in sorted(means)[:7]]
    for k, chosen in enumerate(by_class):
        having = [(ious[k], index) for index, (ious, _, pixels) in enumerate(message) if pixels[k] >= 150]
        assert chosen == [index for _, index in sorted(having)[:4]]
        assert len(chosen) == 4


def test_a_picture_without_labels_is_never_the_worst():
    counts = random_counts()
    overall, by_class = choose(parts(counts), 100, 100, 1)
    assert sorted(overall) == list(range(39))
    assert all(39 not in chosen for chosen in by_class)


def test_a_picture_is_shown_once_with_all_its_ranks():
    assert rank([5, 2], [[2, 7], [], [5]]) == {5: {"": 1, "2": 1}, 2: {"": 2, "0": 1}, 7: {"0": 2}}


def test_the_commonest_confusions_are_those_of_a_hand_count():
    """40 of class 0: 30 right, 6 taken for 1, 4 for 2; 20 of class 1: 8 right, 12 for 2; class 2: 5 right, 1 for 0."""
    matrix = np.array([[30, 6, 4], [0, 8, 12], [1, 0, 5]])
    assert confusions(matrix) == [[1, 2, 12, 12 / 20], [0, 1, 6, 6 / 40], [0, 2, 4, 4 / 40]]
    assert confusions(np.diag([3, 0, 9])) == []


# ---- scores and confusions ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("overrides", [[], ["crf=shapes"], ["tta.flip=true"]])
def test_the_scores_of_a_picture_are_those_of_what_is_shown(copy, overrides):
    data, evaluator = made(copy, "count=10", "side=800", *overrides)
    assert len(data["cards"]) == 10
    names = {evaluator.name(index): index for index in range(10)}
    for card in data["cards"]:
        maps = torch.from_numpy(labels_of(card).copy())
        assert len(maps) == len(card["maps"]) == (3 if "crf=shapes" in overrides else 2)
        np.testing.assert_array_equal(maps[0], evaluator.probs.split[names[card["name"]]].label)
        matrix = confusion(maps[-1], maps[0], 8)
        np.testing.assert_array_equal(matrix, evaluator.counts.confusion(evaluator.predictor.crf, names[card["name"]]))
        scores = Scores.of(matrix)
        assert card["mean_iou"] == pytest.approx(scores.mean_iou)
        assert card["pixel_accuracy"] == pytest.approx(scores.pixel_accuracy)
        assert card["wrong"] == ((maps[-1] != maps[0]) & (maps[0] != IGNORE)).sum()
        assert {int(k): v for k, v in card["iou"].items()} == pytest.approx(
            {k: v for k, v in enumerate(scores.iou) if np.isfinite(v)}
        )
        before = Scores.of(confusion(maps[1], maps[0], 8)).mean_iou
        assert card["before"] == (pytest.approx(before) if "crf=shapes" in overrides else None)
        for truth, taken, pixels, share in card["confusions"]:
            assert pixels == ((maps[0] == truth) & (maps[-1] == taken)).sum()
            assert share == pytest.approx(float(pixels / (maps[0] == truth).sum()))


def test_the_pictures_are_the_maps_in_the_classes_colours(copy):
    data, evaluator = made(copy, "count=3", "per_class=0", "crf=shapes")
    for card in data["cards"]:
        truth, prediction, refined = maps = labels_of(card)
        for shown, values in zip(card["maps"], maps, strict=True):
            picture = picture_of(shown)
            assert picture.mode == "P"
            np.testing.assert_array_equal(np.asarray(picture), values)
            for value in np.unique(values[values != IGNORE]):
                assert data["classes"][str(value)]["colour"] == evaluator.labels.palette[value].tolist()
                colour = np.asarray(picture.convert("RGB"))[values == value]
                assert (colour == evaluator.labels.palette[value]).all()
        errors = np.asarray(picture_of(card["errors"]).convert("RGBA"))
        expected = np.full((*truth.shape, 4), 255)
        expected[refined != truth, :3] = WRONG
        expected[(prediction != truth) & (refined == truth), :3] = MENDED
        expected[(prediction == truth) & (refined != truth), :3] = SPOILT
        expected[truth == IGNORE, :3] = UNCOUNTED
        right = (prediction == truth) & (refined == truth)
        assert (errors[right, 3] == 0).all()
        np.testing.assert_array_equal(errors[~right], expected[~right])


def test_a_large_picture_is_shown_smaller_and_scored_whole(copy):
    whole, _ = made(copy, "count=2", "per_class=0")
    small, _ = made(copy, "count=2", "per_class=0", "side=32")
    for one, other in zip(whole["cards"], small["cards"], strict=True):
        assert one["size"] == other["size"] == one["shown"] == [41, 33]
        assert other["shown"] == [32, 26]
        assert picture_of(other["image"]).size == picture_of(other["errors"]).size == (32, 26)
        assert (one["mean_iou"], one["confusions"]) == (other["mean_iou"], other["confusions"])


def test_the_page_has_the_worst_overall_and_of_each_class(copy):
    data, evaluator = made(copy, "count=3", "per_class=2", "least=20")
    counts = np.stack([evaluator.counts.confusion(None, index) for index in range(10)])
    overall, by_class = choose(parts(counts), 3, 2, 20)
    expected = {evaluator.name(index): ranks for index, ranks in rank(overall, by_class).items()}
    assert {card["name"]: card["ranks"] for card in data["cards"]} == expected
    assert [card["name"] for card in data["cards"][:3]] == [evaluator.name(index) for index in overall]


def test_worst_as_a_user_types_it(copy):
    done = atrous("worst", f"run={copy}", "crf=shapes", "count=4", "per_class=1")
    assert done.returncode == 0, done.stderr
    path = copy / "worst" / "val-crf-10-20-10-3-1" / "index.html"
    data = data_of(path)
    for card in data["cards"][:4]:
        assert re.search(rf"{card['name']}.*{100 * card['mean_iou']:.1f} %", done.stdout)
    assert f"{path}  {len(data['cards'])} pictures" in done.stdout.replace("\n", "")
    assert data["facts"]["command"] == f"atrous worst run={copy} crf=shapes count=4 per_class=1"
    assert data["facts"]["split"] == "val, 10 pictures"
    before = path.read_bytes()
    assert atrous("worst", f"run={copy}", "crf=shapes", "count=4", "per_class=1").returncode == 0
    assert path.read_bytes() == before


def test_the_page_asks_for_nothing_from_outside(copy):
    text = worst(configured("worst", copy)).read_text("utf-8")
    assert not re.search(r"https?:|//\w+\.|\bsrc=|\bhref=|url\(|@import|<link|fetch\(|XMLHttpRequest|import ", text)
    assert "default-src 'none'; img-src data:" in text


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([], "`run` must say"),
        (["run=nowhere"], "there is no nowhere"),
        (["run={run}", "count=0"], "`count` must be 1 to 200 pictures (got 0)"),
        (["run={run}", "per_class=-1"], "`per_class` must be 0 to 20 pictures (got -1)"),
        (["run={run}", "least=0"], "`least` must be at least 1 pixels"),
        (["run={run}", "side=8"], "`side` must be at least 32 pixels"),
        (["run={run}", "count=null"], "`count` must be 1 to 200 pictures (got null)"),
        (["run={run}", "count=[1,2]"], "`count` must be 1 to 200 pictures (got [1, 2])"),
        (["run={run}", "cuont=3"], "did you mean count"),
        (["run={run}", "split=test"], "train, val"),
        (["run={run}", "data=voc"], "8 classes, the dataset has 21"),
    ],
)
def test_a_slip_of_worst_is_one_message(trained, overrides, says, capsys):
    assert main(["worst", *(word.replace("{run}", str(trained)) for word in overrides)]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") <= 3


def test_the_page_tells_of_a_single_look_that_is_not_the_plain_one(copy):
    few = ["count=1", "per_class=0"]
    assert "looks" not in made(copy, *few)[0]["facts"]
    assert made(copy, *few, "tta.scales=[0.5]")[0]["facts"]["looks"] == "tta 0.5 mean"


def test_the_page_tells_what_is_not_usual_about_its_crf(copy):
    values = "w1 10, sigma_alpha 20, sigma_beta 10, w2 3, sigma_gamma 1"
    for word, message in (("crf.iterations=10", values), ("crf.iterations=4", f"{values}, 4 iterations")):
        assert made(copy, "count=1", "per_class=0", "crf=shapes", word)[0]["facts"]["CRF"] == message


def test_the_page_names_another_refiner(copy):
    facts = made(copy, "count=1", "per_class=0", "crf=superpixels", "crf.segments=40")[0]["facts"]
    assert facts["CRF"] == "superpixels, 40 segments, compactness 10"


def test_a_page_of_too_many_pictures_says_what_to_lower(copy):
    cfg = configured("worst", copy)
    check_length(cfg, classes=96, pictures=2000)
    check_length(cfg, classes=182, pictures=300)  # there are no more
    with pytest.raises(ValueError, match=r"`per_class=3` of 182 classes .* 558 .* at most 300: per_class=1$"):
        check_length(cfg, classes=182, pictures=2000)
    check_length(configured("worst", copy, "per_class=1"), classes=182, pictures=2000)


def test_the_page_can_be_in_a_folder_that_is_a_number_and_a_file_in_its_place_is_refused_first(
    copy, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    overrides = ["worst", f"run={copy}", "count=1", "per_class=0"]
    (tmp_path / "2023").write_text("a file")
    assert main([*overrides, "out=2023"]) == 2
    assert "`out=2023` can't be made a folder" in capsys.readouterr().err
    assert not list(copy.glob("trial/*/counts*"))
    assert main([*overrides, "out=2024"]) == 0
    assert (tmp_path / "2024" / "index.html").exists()


def test_the_errors_are_looked_for_once_and_not_for_each_colour(monkeypatch):
    calls = []

    def counting(*maps):
        calls.append(maps[0].shape)
        return errors(*maps)

    monkeypatch.setattr("atrous.draw.worst_page.errors", counting)
    error_url(np.zeros((50, 60), np.uint8), np.ones((50, 60), np.uint8), None, (60, 50))
    assert calls.count((50, 60)) == 1


# ---- in a browser ---------------------------------------------------------------------------------------------------
NAMES = "[...document.querySelectorAll('article:not([hidden]) h2')].map(each => each.textContent)"


def press(tab, group, text):
    """Clicks the button of a group whose text begins so; gives the names of the pictures then shown, in order."""
    result = f"[...document.querySelectorAll('#{group} button')].find(each => each.textContent.startsWith({text!r}))"
    tab.evaluate(f"{result}.click()")
    return tab.evaluate(NAMES)


@pytest.mark.skipif(chromium() is None, reason="needs Chromium")
def test_the_page_shows_and_orders_in_a_browser_what_python_counts(copy):
    path = worst(configured("worst", copy, "crf=v2", "crf.w1=0.5", "crf.w2=0.1", "count=4", "per_class=2", "least=60"))
    cards = data_of(path)["cards"]
    classes = data_of(path)["classes"]
    with page(path.as_uri()) as tab:
        tab.wait_for("document.body.dataset.ready")
        assert tab.evaluate("document.images.length") == 6 * len(cards)  # five tiles, the errors above a ghost
        assert tab.evaluate("Promise.all([...document.images].map(each => each.decode())).then(all => all.length)")
        assert tab.evaluate(NAMES) == [card["name"] for card in sorted(cards, key=lambda card: card["mean_iou"])]
        for button, key, sign in (
            ("mean IoU", "mean_iou", -1),  # it was chosen: now the other way round
            ("pixels right", "pixel_accuracy", 1),
            ("pixels right", "pixel_accuracy", -1),
            ("number of wrong", "wrong", -1),
            ("number of wrong", "wrong", 1),
        ):
            ordered = sorted(cards, key=lambda card: sign * card[key])
            assert press(tab, "orders", button) == [card["name"] for card in ordered]
        assert press(tab, "orders", "name") == sorted(card["name"] for card in cards)
        assert len(press(tab, "filters", "worst overall")) == 4
        for value, each in classes.items():
            having = [card for card in cards if card["truth"].get(value, 0) >= 60]
            if not having:
                continue
            shown = press(tab, "filters", each["name"])
            having.sort(key=lambda card: (card["iou"][value], card["ranks"].get(value, 99)))
            assert shown == [card["name"] for card in having]
            assert tab.evaluate("document.getElementById('shown').textContent").startswith(f"{len(having)} picture")
            assert [card["ranks"].get(value) for card in having[:2]] == [1, 2][: len(having)]
        tab.press("Escape", 27)
        assert len(tab.evaluate(NAMES)) == len(cards)
        assert not tab.console_errors
        assert {request.partition(":")[0] for request in tab.requests} == {"file", "data"}


@pytest.mark.skipif(chromium() is None, reason="needs Chromium")
def test_the_keyboard_is_enough_and_the_page_fits_a_narrow_window(copy):
    path = worst(configured("worst", copy, "count=4", "per_class=1"))
    with page(path.as_uri(), 420, 800) as tab:
        tab.wait_for("document.body.dataset.ready")
        assert not tab.evaluate("document.documentElement.scrollWidth > innerWidth")
        focused = "document.activeElement.textContent"
        for _ in range(2):
            tab.press("Tab", 9)
        assert tab.evaluate(focused).startswith("worst overall")
        tab.call("Input.dispatchKeyEvent", type="char", text="\r", key="Enter")
        assert tab.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"  # the focus stays
        assert len(tab.evaluate(NAMES)) == 4
        assert not tab.console_errors


@pytest.mark.skipif(chromium() is None, reason="needs Chromium")
def test_the_pointer_tells_the_classes_below_it(copy):
    path = worst(configured("worst", copy, "crf=shapes", "count=2", "per_class=0"))
    data = data_of(path)
    card = data["cards"][0]
    row, column = 20, 30
    with page(path.as_uri()) as tab:
        tab.wait_for("document.body.dataset.ready")
        box = tab.evaluate(
            "(({x, y, width, height}) => [x, y, width, height])(document.querySelector('.stage')"
            ".getBoundingClientRect())"
        )
        tab.point(box[0] + (column + 0.5) / 41 * box[2], box[1] + (row + 0.5) / 33 * box[3])
        message = tab.wait_for("!document.getElementById('tip').hidden && document.getElementById('tip').innerText")
        names = [data["classes"][str(each[row, column])]["name"] for each in labels_of(card)]
        assert message.split("\n") == [part for pair in zip(data["titles"], names) for part in pair]
        assert not tab.console_errors


@pytest.mark.skipif(chromium() is None, reason="needs Chromium")
def test_names_of_any_letters_are_text_and_nothing_but_text_on_the_worst_page(copy, tmp_path):
    data, evaluator = made(copy, "count=2", "per_class=0")
    labels = LabelSpace([NASTY, *evaluator.labels.names[1:]], evaluator.labels.palette)
    cards = [card | {"name": NASTY} for card in data["cards"]]
    text = render(NASTY, {"run": NASTY, "command": NASTY}, cards, labels, 1)
    (tmp_path / "index.html").write_text(text, "utf-8")
    with page((tmp_path / "index.html").as_uri()) as tab:
        tab.wait_for("document.body.dataset.ready")
        assert tab.evaluate("document.title") == NASTY
        assert tab.evaluate(NAMES) == [NASTY, NASTY]
        assert len(press(tab, "filters", NASTY)) == 2
        assert tab.evaluate("document.scripts.length") == 2
        assert not tab.console_errors
