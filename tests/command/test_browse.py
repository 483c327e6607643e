import base64
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from miniature import SPLITS, write_voc
from omegaconf import OmegaConf
from PIL import Image
from running import atrous, configure
from warm import cold

from atrous.__main__ import main
from atrous.batch import IGNORE, VOID, LabelSpace, Sample, voc_palette
from atrous.command.browse import browse, data_url, render
from atrous.config.override import absences
from atrous.config.place import CONF
from atrous.run.folder import RunFolder
from atrous.run.train import build_data, build_trainer

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
NASTY = """</script><script>document.title = "mine"</script><!-- <b title='&amp;'>&"""


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """(folder, what was written) of a miniature VOC: three pictures to train on, two to score."""
    root = tmp_path_factory.mktemp("voc")
    return root, write_voc(root)


def words_for(root: Path, *more: str) -> list[str]:
    return ["experiment=voc", f"data.root='{root}'", "data.train=train", "augment.crop=33", *more]


def browsed(out: Path, *overrides: str) -> dict[str, Any]:
    """The data of the page that the command leaves."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg: Any = compose("browse", absences([*overrides, f"out='{out}'"]))
    browse(cfg)
    return data_of((out / "index.html").read_text("utf-8"))


def data_of(page: str) -> dict[str, Any]:
    match = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert match
    return json.loads(match[1])


def image_of(card: dict[str, Any]) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(card["image"].partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB"))


def label_of(card: dict[str, Any]) -> np.ndarray:
    packed = zlib.decompress(base64.b64decode(card["packed"]))
    return np.frombuffer(packed, np.uint8).reshape(card["height"], card["width"])


def plain(cfg: Any) -> Any:
    return OmegaConf.to_container(cfg, resolve=False)


# ---- which pictures -------------------------------------------------------------------------------------------------
def marked(name: str) -> Any:
    """One row of each paper; the others change the same groups, and tests/test_structure.py composes every choice."""
    row = name.startswith(("v1_", "v2_")) and name not in ("v1_msc", "v2_cityscapes")
    return pytest.param(name, marks=pytest.mark.slow) if row else name


@pytest.mark.parametrize("experiment", [marked(name) for name in EXPERIMENTS])
def test_what_is_browsed_is_what_a_run_is_configured_with(experiment):
    run = plain(configure(f"experiment={experiment}"))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        shown = plain(compose("browse", [f"experiment={experiment}"]))
    assert {key: shown[key] for key in run} == run
    assert set(shown) - set(run) == {"count", "split", "out"}


@pytest.mark.parametrize("augment", [["augment=v2", "augment.crop=33"], ["augment=v1", "augment.crop=41"]])
def test_the_pictures_are_the_first_ones_that_a_run_trains_on(voc, tmp_path, augment):
    overrides = [*words_for(voc[0])[:3], *augment, "seed=5", "total_batch=3", "trainer.accelerator=cpu", "workers=0"]
    cfg = configure(*overrides, "logger=csv", f"run_dir='{tmp_path / 'run'}'", "trainer.max_steps=3")
    config: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    trainer = build_trainer(cfg, config, RunFolder(tmp_path / "run", config))
    data = build_data(cfg, instantiate(cfg.data, _convert_="all"), trainer)
    data.trainer = trainer
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == 3

    cards = browsed(tmp_path / "out", *overrides, "count=9")["cards"]
    assert [card["name"] for card in cards] == [name for batch in batches for name in batch.name]
    for card, label in zip(cards, (label for batch in batches for label in batch.label), strict=True):
        np.testing.assert_array_equal(label_of(card), label.numpy())
    for card, image in zip(cards, (image for batch in batches for image in batch.image), strict=True):
        assert abs(image_of(card).astype(int) - image.permute(1, 2, 0).numpy()).mean() < 4  # a JPEG of noise
    other = browsed(tmp_path / "other", *overrides, "count=9", "seed=6")["cards"]
    assert [card["packed"] for card in cards] != [card["packed"] for card in other]


def test_more_pictures_than_the_split_has_come_again_in_another_draw(voc, tmp_path):
    cards = browsed(tmp_path, *words_for(voc[0], "count=12"))["cards"]
    for name in SPLITS["train"]:
        draws = [card["packed"] for card in cards if card["name"] == name]
        assert len(draws) == 4  # each once in every round of three
        assert len(set(draws)) > 1


def test_without_augmentation_the_pictures_are_as_they_are(voc, tmp_path):
    root, written = voc
    cards = browsed(tmp_path, *words_for(root)[:3], "augment=null", "count=3")["cards"]
    assert sorted(card["name"] for card in cards) == sorted(SPLITS["train"])
    for card in cards:
        np.testing.assert_array_equal(label_of(card), written[card["name"]].label)


def test_no_decoded_copy_of_a_dataset_is_made_for_a_few_pictures(voc, tmp_path):
    without = browsed(tmp_path / "without", *words_for(voc[0]))["cards"]
    assert browsed(tmp_path / "with", *words_for(voc[0], f"data.cache='{tmp_path / 'cache'}'"))["cards"] == without
    assert not (tmp_path / "cache").exists()


def test_validation_pictures_are_shown_once_in_their_order_at_their_own_size(voc, tmp_path):
    root, written = voc
    page = browsed(tmp_path, *words_for(root, "split=val", "count=9"))
    assert [card["name"] for card in page["cards"]] == list(SPLITS["val"])
    for card in page["cards"]:
        np.testing.assert_array_equal(label_of(card), written[card["name"]].label)
    assert "augment" not in page["facts"]


def test_only_what_is_shown_is_read(tmp_path):
    """The training list alone, none of the pictures beyond the first; no network, no weights, no run, no logger."""
    ids = [f"2007_{k:06}" for k in range(9)]
    write_voc(tmp_path / "voc", splits={"train": ids})
    overrides = words_for(tmp_path / "voc", "data.val=none", "count=2")
    shown = {card["name"] for card in browsed(tmp_path / "out", *overrides)["cards"]}
    for name in set(ids) - shown:
        (tmp_path / "voc" / "JPEGImages" / f"{name}.jpg").write_bytes(b"")
    unwanted = ("atrous.run.train", "atrous.module", "atrous.model", "atrous.logger", "atrous.callback", "wandb")
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({unwanted}))\n"  # an import of any of them fails
        f"from atrous.__main__ import main\nsys.exit(main(['browse', *{overrides}]))"
    )
    with cold():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# ---- the files ------------------------------------------------------------------------------------------------------
def test_browse_as_a_user_types_it(tmp_path):
    overrides = ["experiment=shapes", "augment=v1", "augment.crop=33", "data.size=[33,41]", "count=5"]
    done = atrous("browse", *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["runs/browse/shapes/sheet.png", "runs/browse/shapes/index.html"]
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["index.html", "sheet.png"]
    with Image.open(tmp_path / "runs/browse/shapes/sheet.png") as sheet:
        assert min(sheet.size) > 400
    page = data_of((tmp_path / "runs/browse/shapes/index.html").read_text("utf-8"))
    assert page["title"] == "shapes: 5 draws from train, augmented, seed 0"
    assert page["facts"]["command"] == f"atrous browse {shlex.join(overrides)}"
    assert page["facts"]["augment"] == "v1 (crop 33, mirror true, photometric false)"
    assert page["facts"]["split"] == "train, 65,536 pictures"
    assert "size [33, 41]" in page["facts"]["dataset"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert atrous("browse", *overrides, cwd=tmp_path).returncode == 0
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*")}


def test_the_page_needs_nothing_from_outside(voc, tmp_path):
    browsed(tmp_path, *words_for(voc[0]))
    page = (tmp_path / "index.html").read_text("utf-8")
    assert not re.search(r"https?:|//\w+\.|\bsrc=|\bhref=|url\(|@import|<link|fetch\(|XMLHttpRequest|import ", page)
    assert "default-src 'none'; img-src data:" in page


def test_the_page_tells_the_augmentation(voc, tmp_path):
    facts = browsed(tmp_path, *words_for(voc[0], "augment.scales=[0.5,2]"))["facts"]
    assert facts["augment"].endswith("(crop 33, scales [0.5, 2], mirror true, photometric false)")


def test_twelve_crops_of_the_papers_size_make_a_page_of_less_than_five_megabytes():
    noise = np.random.default_rng(0).integers(0, 256, (321, 321, 3), np.uint8)  # no photograph is larger than this
    assert 12 * len(data_url(noise)) < 5e6


def test_a_small_picture_is_kept_to_the_bit():
    image = np.random.default_rng(0).integers(0, 256, (3, 2, 3), np.uint8)
    np.testing.assert_array_equal(image_of({"image": data_url(image)}), image)


# ---- classes --------------------------------------------------------------------------------------------------------
def test_the_legend_has_name_and_colour_of_what_occurs_and_nothing_else(voc, tmp_path):
    root, written = voc
    page = browsed(tmp_path, *words_for(root)[:3], "augment=null", "count=1")
    (card,) = page["cards"]
    label = written[card["name"]].label
    values = sorted(set(label.ravel().tolist()))
    assert len(values) == 5  # four bands and the void between
    assert [each["value"] for each in page["classes"]] == values
    assert [each["colour"] for each in page["classes"][:-1]] == voc_palette()[values[:-1]].tolist()
    assert page["classes"][-1] == {"value": IGNORE, "name": "void", "colour": list(VOID)}
    assert dict(map(tuple, card["shares"])) == {v: pytest.approx((label == v).mean(), abs=1e-6) for v in values}
    shares = [share for _, share in card["shares"]]
    assert shares == sorted(shares, reverse=True)


def nasty_page() -> str:
    labels = LabelSpace([NASTY, "'; alert(1); '", "same", "as same"], np.array([(9, 9, 9), (250, 0, 0), VOID, VOID]))
    striped = np.tile(np.repeat(np.array([0, 1, 3, IGNORE], np.uint8), 10), (20, 1))
    samples = [
        Sample(np.full((20, 40, 3), 128, np.uint8), striped, NASTY),
        Sample(np.full((1, 1, 3), 7, np.uint8), np.full((1, 1), 2, np.uint8), "one pixel"),
        Sample(np.zeros((300, 200, 3), np.uint8), np.full((300, 200), IGNORE, np.uint8), "all void"),
    ]
    return render(f"{NASTY} {{{{data}}}}", {"dataset": NASTY, "command": NASTY}, samples, labels)


def test_names_of_any_letters_are_text_and_nothing_but_text():
    page = nasty_page()
    data = data_of(page)
    assert data["cards"][0]["name"] == data["facts"]["dataset"] == NASTY
    assert data["classes"][0]["name"] == NASTY
    assert page.count("<script") == page.count("</script") == 2
    assert "<b title" not in page
    assert "<!-- <b" not in page
    assert page.count("&lt;/script&gt;&lt;script&gt;document.title = &quot;mine&quot;") == 2  # title and heading


# ---- mistakes -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "which experiment? experiment=… is one of: "),
        (["experiment=shape"], "did you mean experiment=shapes"),
        (["experiment=shapes", "augment=v3"], "did you mean augment=v"),
        (["experiment=shapes", "cuont=3"], "did you mean count"),
        (["experiment=shapes", "count=many"], "`count` is a whole number"),
        (["experiment=shapes", "count=0"], "`count` must be 1 to 500 pictures (got 0)"),
        (["experiment=shapes", "count=501"], "`count` must be 1 to 500 pictures (got 501)"),
        (["experiment=shapes", "split=test"], "`split` is train or val"),
        (["experiment=shapes", "augment=v1", "augment.crop=0"], "`crop` must be at least 1 pixel"),
        (["experiment=voc", "data.root=/nowhere"], "data.root="),
        (["experiment=shapes", "data.size=33", "count=1", f"out='{__file__}'"], "can't be made a folder"),
        (["experiment=shapes", "data.size=33", "count=1", f"out='{__file__}/below'"], "can't be made a folder"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2_for_browse(overrides, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["browse", *overrides]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert len(message.splitlines()) <= 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("overrides", [["--help"], ["experiment=voc", "--cfg", "job"]])
def test_help_and_the_configuration_of_browse_need_no_torch(overrides):
    code = f"import sys; sys.modules['torch'] = None\nfrom atrous.__main__ import main; main(['browse', *{overrides}])"
    with cold():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "count: 12" in done.stdout
    assert "split: train" in done.stdout


# ---- in a browser ---------------------------------------------------------------------------------------------------
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Uses the page as a person would, and writes down what came of it.
VISIT = """
<script>
const visited = {};
const layer = card => {
  const copy = make("canvas", {width: card.width, height: card.height}).getContext("2d", {willReadFrequently: true});
  copy.drawImage(card.canvas, 0, 0);
  return copy.getImageData(0, 0, card.width, card.height).data;
};
const opaque = card => layer(card).filter((_, k) => k % 4 === 3).reduce((sum, alpha) => sum + alpha / 255, 0);
const shown = card => getComputedStyle(card.canvas).visibility;
const point = (card, x, y) => {
  const box = card.canvas.getBoundingClientRect();
  const at = {clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true};
  card.canvas.dispatchEvent(new PointerEvent("pointermove", at));
  return document.getElementById("tip").textContent;
};
const visit = () => {
  if (document.body.dataset.ready !== "true") return setTimeout(visit, 20);
  const [first] = cards, stage = first.element.querySelector(".stage"), slider = document.getElementById("opacity");
  visited.names = cards.map(card => card.element.querySelector("h2 span").textContent);
  visited.legend = [...document.querySelectorAll("#legend button")].map(button => button.textContent);
  visited.listed = [...first.element.querySelectorAll("button.class")].map(button => button.textContent);
  visited.hovered = [0.01, 0.26, 0.74, 0.99].map(x => point(first, x, 0.5));
  visited.pixel = point(cards[1], 0.5, 0.5);
  visited.colour = [...layer(first).slice(4 * 10, 4 * 10 + 4)];
  visited.whole = cards.map(opaque);
  document.querySelectorAll("#legend button")[1].click();
  visited.alone = cards.map(opaque);
  visited.faded = cards.map(card => card.element.classList.contains("without"));
  dispatchEvent(new KeyboardEvent("keydown", {key: "Escape"}));
  visited.again = cards.map(opaque);
  visited.toggled = [shown(first), (stage.click(), shown(first)), (stage.click(), shown(first))];
  slider.value = 25;
  slider.dispatchEvent(new Event("input"));
  visited.opacity = getComputedStyle(first.canvas).opacity;
  visited.title = document.title;
  visited.sizes = cards.map(card => [card.canvas, card.element.querySelector("img")].map(each => each.clientWidth));
  visited.wide = document.documentElement.scrollWidth > innerWidth;
  document.body.append(make("pre", {id: "visited"}, btoa(unescape(encodeURIComponent(JSON.stringify(visited))))));
};
visit();
</script>
"""


def visit(page: str, folder: Path) -> tuple[dict[str, Any], str]:
    """Return the state of the page in a browser without a network, and its console output."""
    (folder / "page.html").write_text(page.replace("</body>", VISIT + "</body>"), "utf-8")
    options = "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking --dump-dom"
    more = "--enable-logging=stderr --v=0 --virtual-time-budget=20000 --window-size=1400,1000"
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND"
    command = [CHROMIUM or "", *options.split(), *more.split(), nowhere, f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run([*command, (folder / "page.html").as_uri()], capture_output=True, text=True, timeout=120)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    match = re.search(r'<pre id="visited">(.*?)</pre>', done.stdout)
    return json.loads(base64.b64decode(match[1])) if match else {}, console


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_works_in_a_browser_without_a_word_on_the_console(tmp_path):
    visited, console = visit(nasty_page(), tmp_path)
    assert console == ""
    assert visited["names"] == [NASTY, "one pixel", "all void"]
    assert visited["title"] == f"{NASTY} {{{{data}}}}"
    assert visited["legend"] == [NASTY, "'; alert(1); '", "same", "as same", "void"]
    assert sorted(visited["listed"]) == sorted(f"{each}25 %" for each in (NASTY, "'; alert(1); '", "as same", "void"))
    # Classes of one colour, which is void's too, are distinguished.
    assert visited["hovered"] == [NASTY, "'; alert(1); '", "as same", "void"]
    assert visited["pixel"] == "same"
    assert visited["colour"] == [250, 0, 0, 255]
    assert visited["whole"] == visited["again"] == [20 * 40, 1, 300 * 200]
    assert visited["alone"] == [20 * 10, 0, 0]
    assert visited["faded"] == [False, True, True]
    assert visited["toggled"] == ["visible", "hidden", "visible"]
    assert visited["opacity"] == "0.25"
    assert all(canvas == image > 100 for canvas, image in visited["sizes"])
    assert not visited["wide"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_keeps_the_page_from_asking_for_anything(tmp_path):
    outside = """<body><script>new Image().src = "https://example.org/x.png"; fetch("https://example.org")</script>"""
    visited, console = visit(nasty_page().replace("<body>", outside), tmp_path)
    assert re.search(r"x\.png.*Content Security Policy.*img-src", console)
    assert re.search(r"Connect.*Content Security Policy", console)
    assert visited["names"][1] == "one pixel"
