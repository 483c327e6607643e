"""The page of `atrous demo`: what it computes, and the page itself in a real browser."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import zlib
from base64 import b64decode
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from browser import chromium, page
from hydra import compose, initialize_config_dir
from PIL import Image
from running import atrous, configure, run

from atrous.command.demo import demo, free_port, open_browser
from atrous.config.place import CONF
from atrous.inference.demo_page import SLIDERS, pieces, scale, step_of
from atrous.inference.predictor import open_predictor
from atrous.inference.segmenter import pixels
from atrous.inference.studio import EXAMPLES, Studio, examples, first_crf

# It is never imported here: it leaves sockets and loops open, which are errors to pytest.
with_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="there is no gradio here")


@pytest.fixture(scope="module")
def opened(trained):
    return open_predictor(configured(trained), device="cpu")


def configured(run, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("demo", [f"run='{run}'", *overrides])


@pytest.fixture
def studio(opened):
    return Studio(opened, first_crf(opened), largest=1024)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)


def labels_of(shown):
    """What the page is given, unpacked as the page unpacks it."""
    result = json.loads(shown)
    return [
        np.frombuffer(zlib.decompress(b64decode(panel["packed"])), np.uint8).reshape(result["height"], result["width"])
        for panel in result["panels"]
    ]


def count_runs(module):
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


# ---- what is computed -----------------------------------------------------------------------------------------------
def test_the_labels_shown_are_those_that_the_network_and_the_crf_give(opened, studio, image):
    before, after = labels_of(studio.show(studio.segment(image, "a"), studio.crf, fresh=True))
    assert (before == opened.label(image)).all()
    assert (after == replace(opened, crf=studio.crf).label(image)).all()
    assert (before != after).any()


def test_without_a_crf_the_networks_own_label_is_shown_alone(opened, studio, image):
    shown = studio.show(studio.segment(image, "a"), None, fresh=True)
    (label,) = labels_of(shown)
    assert (label == opened.label(image)).all()
    assert "overrides" not in json.loads(shown)


def test_the_network_runs_once_for_a_picture_however_the_sliders_move(opened, studio, image):
    calls = count_runs(opened.segmenter.scores)
    seen = studio.segment(image, "a")
    result = [labels_of(studio.show(seen, replace(studio.crf, w1=float(w1)), fresh=False))[1] for w1 in range(10)]
    assert len(calls) == 1
    assert any((label != result[0]).any() for label in result)


def test_a_crf_of_no_iterations_changes_nothing(studio, image):
    before, after = labels_of(studio.show(studio.segment(image, "a"), replace(studio.crf, iterations=0), fresh=False))
    assert (before == after).all()


def test_the_picture_itself_is_sent_once(studio, image):
    seen = studio.segment(image, "a")
    assert "image" in json.loads(studio.show(seen, studio.crf, fresh=True))
    assert "image" not in json.loads(studio.show(seen, studio.crf, fresh=False))


def test_shares_are_parts_of_the_pixels(studio, image):
    panels = json.loads(studio.show(studio.segment(image, "a"), studio.crf, fresh=True))["panels"]
    for panel, label in zip(panels, labels_of(studio.show(studio.segment(image, "a"), studio.crf, fresh=True))):
        assert sum(share for _, share in panel["shares"]) == pytest.approx(1, abs=1e-4)
        for value, share in panel["shares"]:
            assert share == pytest.approx((label == value).mean(), abs=1e-5)


def test_a_large_picture_is_shrunk_and_that_is_said(opened):
    seen = Studio(opened, None, largest=64).segment(np.zeros((50, 200, 3), np.uint8), "a")
    assert seen.prediction.shape == (16, 64)
    assert seen.note == "200 × 50 pixels, shrunk to 64 × 16 (largest=64)"
    assert Studio(opened, None, largest=None).segment(np.zeros((50, 200, 3), np.uint8), "a").prediction.shape == (
        50,
        200,
    )


def test_the_smallest_picture_is_one_too(studio):
    before, after = labels_of(studio.show(studio.segment(np.zeros((1, 1, 3), np.uint8), "a"), studio.crf, fresh=True))
    assert before.shape == after.shape == (1, 1)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_grey_transparent_and_printers_pictures_are_seen(studio, tmp_path, mode):
    name = "a.tif" if mode == "CMYK" else "a.png"
    Image.new(mode, (20, 10)).save(tmp_path / name)
    assert studio.segment(pixels(tmp_path / name), name).prediction.shape == (10, 20)


def test_a_picture_is_turned_as_its_camera_noted(studio, tmp_path):
    picture = Image.new("RGB", (20, 10))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert studio.segment(pixels(tmp_path / "a.jpg"), "a").prediction.shape == (20, 10)


# ---- what the page begins with --------------------------------------------------------------------------------------
def test_the_sliders_begin_at_the_commands_crf_else_the_runs(trained, opened):
    assert (first_crf(opened).w1, first_crf(opened).sigma_alpha) == (10, 20)  # conf/crf/shapes.yaml
    asked = open_predictor(configured(trained, "crf=v1"), device="cpu")
    assert (first_crf(asked).w1, first_crf(asked).normalization) == (5, "after")


def test_another_refiner_has_no_sliders(trained):
    with pytest.raises(ValueError, match=r"must be a DenseCRF, whose values the sliders set \(got a GridCRF\): crf=v2"):
        first_crf(open_predictor(configured(trained, "crf=grid"), device="cpu"))


def test_every_value_of_a_shipped_crf_is_one_of_its_slider():
    for path in (CONF / "crf").glob("*.yaml"):
        crf = configure("experiment=shapes", f"crf={path.stem}").crf
        if not crf._target_.endswith("DenseCRF"):
            continue  # refused by name
        for each in SLIDERS:
            least, most, step = scale(each, crf[each.key])
            assert least <= crf[each.key] <= most
            assert (crf[each.key] - least) / step == pytest.approx(round((crf[each.key] - least) / step))


@pytest.mark.parametrize(("value", "step"), [(10, 0.5), (3.5, 0.5), (3.7, 0.1), (0.25, 0.01)])
def test_a_slider_has_a_step_that_meets_its_value(value, step):
    assert step_of(value, 0.5) == step


def test_examples_are_the_runs_own_validation_pictures(opened):
    pictures = examples(opened, trust=False, largest=1024)
    assert len(pictures) == EXAMPLES
    assert pictures[0][1] == "val/000000"
    assert pictures[0][0].shape == (33, 41, 3)


def test_a_dataset_that_is_not_here_leaves_the_page_without_examples(opened, tmp_path):
    info = opened.segmenter.info
    data = {"_target_": "atrous.data.voc.VOC", "root": str(tmp_path / "none")}
    elsewhere = info._replace(config=info.config | {"data": data})
    segmenter = opened.segmenter
    segmenter.info = elsewhere
    try:
        assert examples(opened, trust=False, largest=None) == []
    finally:
        segmenter.info = info


def test_what_gradio_takes_for_its_own_stands_in_no_template():
    body, css, script = pieces()
    assert not re.search(r"\{\{|\$\{|`|\\", body + css)
    assert "watch(" in script


# ---- the server -----------------------------------------------------------------------------------------------------
def test_a_port_that_is_taken_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"`port={port}` can't be had"):
            free_port(port)
    assert free_port(port) == port


def test_a_port_is_found_where_none_is_asked_for():
    assert free_port(None) >= 7860
    with pytest.raises(ValueError, match="`port` must be 1 to 65535"):
        free_port(70000)


def test_no_browser_is_opened_where_there_is_no_screen(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("webbrowser.open", lambda address: pytest.fail(f"opened {address}"))
    open_browser("http://127.0.0.1:1/")


def test_without_gradio_it_is_said_what_to_install(monkeypatch, trained):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"pip install 'gradio>=6\.31'"):
        demo(configured(trained))


@with_gradio
@pytest.mark.parametrize("word", ["largest=0", "largest=huge", "port=0", "port=http"])
def test_a_setting_that_makes_no_sense_is_refused_by_its_name(trained, word):
    with pytest.raises(ValueError, match=f"`{word.split('=')[0]}` must be"):
        demo(configured(trained, word))


@with_gradio
def test_what_is_wrong_with_the_command_is_one_line_and_code_2():
    done = atrous("demo")
    assert done.returncode == 2
    assert "`run` must say whose network" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@with_gradio
def test_asked_to_end_it_removes_what_was_dropped_on_the_page(trained, tmp_path):
    command = [sys.executable, "-u", "-m", "atrous", "demo", f"run={trained}", "open=false"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert "http://127.0.0.1:" in process.stdout.readline()
        assert list(tmp_path.glob("atrous-demo-*"))
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("atrous-demo-*"))


# ---- the page, in a browser -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def address(trained):
    """Of a page that is served by another process, as a user starts it; which Ctrl-C ends quietly."""
    if find_spec("gradio") is None:
        pytest.skip("there is no gradio here")
    if chromium() is None:
        pytest.skip("there is no Chromium here")
    command = [sys.executable, "-u", "-m", "atrous", "demo", f"run={trained}", "open=false", "largest=300"]
    # A proxy that is not there: nothing but this machine may be asked for anything.
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | proxies
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        result = re.search(r"http://127\.0\.0\.1:\d+/", line)
        if not result:
            process.kill()
            pytest.fail(line + process.communicate()[1])
        yield result[0]
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=60)
        assert (process.returncode, rest, complaints) == (130, "", "")
    finally:
        process.kill()
        process.wait()


DRAWN = "document.querySelector('#viewer [data-drawn]')?.dataset.drawn"
SCREEN = """[...document.querySelectorAll('#viewer canvas')].map(canvas =>
  Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).join())"""


def set_slider(tab, key, value):
    tab.evaluate(
        f"""(slider => {{
          Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(slider, {value});
          slider.dispatchEvent(new Event("input", {{bubbles: true}}));
          slider.dispatchEvent(new Event("change", {{bubbles: true}}));
        }})(document.querySelector("#{key} input[type=range]"))"""
    )


@pytest.mark.slow
def test_a_picture_dropped_is_seen_and_a_slider_changes_it(address, opened, studio, tmp_path):
    image = opened and examples(opened, False, None)[1][0]
    Image.fromarray(image).save(tmp_path / "photo.png")
    with page(address) as tab:
        tab.wait_for("document.querySelector('#viewer .empty')", 30)
        tab.wait_for("document.querySelector('#drop input[type=file]')", 30)
        tab.drop("#drop input[type=file]", tmp_path / "photo.png")
        tab.wait_for(f"{DRAWN} == 1", 60)
        seen = studio.segment(image, "photo.png")
        colours = opened.labels.palette
        shown = [np.array(text.split(","), int).reshape(*image.shape[:2], 4) for text in tab.evaluate(SCREEN)]
        expected = labels_of(studio.show(seen, studio.crf, fresh=True))
        for result, label in zip(shown, expected, strict=True):
            assert (result[..., :3] == colours[label]).all()
            assert (result[..., 3] == 255).all()

        set_slider(tab, "w1", 0)
        set_slider(tab, "w2", 0)
        tab.wait_for(f"{DRAWN} > 1 && document.querySelector('#viewer code').textContent.includes('crf.w2=0 ')", 60)
        before, after = tab.evaluate(SCREEN)
        assert before == after  # kernels without weight

        tab.evaluate("document.querySelector('#reset').click()")
        tab.wait_for("document.querySelector('#viewer code').textContent.includes('crf.w2=3 ')", 60)
        tab.wait_for("document.querySelector('#viewer code').textContent.includes('crf.w1=10 ')", 60)
        tab.evaluate("document.querySelector('#switch input').click()")
        tab.wait_for("document.querySelectorAll('#viewer canvas').length == 1", 60)
        check_quiet(tab, address)


@pytest.mark.slow
def test_an_example_is_segmented_and_the_class_under_the_pointer_named(address, opened):
    image = examples(opened, False, None)[0][0]
    label = opened.label(image)
    with page(address) as tab:
        tab.wait_for("document.querySelector('#examples button')", 30)
        tab.evaluate("document.querySelector('#examples button').click()")
        tab.wait_for(f"{DRAWN} == 1", 60)
        assert tab.evaluate("document.querySelector('#viewer .name').textContent") == "val/000000"
        box = tab.evaluate("document.querySelector('#viewer canvas').getBoundingClientRect().toJSON()")
        height, width = label.shape
        for y, x in ((3, 5), (20, 30)):
            tab.point(box["x"] + (x + 0.5) / width * box["width"], box["y"] + (y + 0.5) / height * box["height"])
            tip = tab.wait_for("document.querySelector('#viewer .tip:not([hidden])')?.textContent", 5)
            assert tip.startswith(opened.labels.names[label[y, x]])
        check_quiet(tab, address)


@pytest.mark.slow
def test_a_file_that_is_no_picture_gets_a_message_and_the_next_one_works(address, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    Image.new("RGB", (900, 300), (90, 120, 150)).save(tmp_path / "large.jpg")
    with page(address) as tab:
        tab.wait_for("document.querySelector('#drop input[type=file]')", 30)
        tab.drop("#drop input[type=file]", tmp_path / "broken.png")
        said = tab.wait_for("document.querySelector('.toast-body')?.innerText", 60)
        assert "broken.png" in said
        assert "atrous-demo-" not in said  # nor where the page keeps it
    with page(address) as tab:
        tab.wait_for("document.querySelector('#drop input[type=file]')", 30)
        tab.drop("#drop input[type=file]", tmp_path / "large.jpg")
        tab.wait_for(f"{DRAWN} == 1", 60)
        note = tab.evaluate("document.querySelector('#viewer .note').textContent")
        assert note == "900 × 300 pixels, shrunk to 300 × 100 (largest=300)"
        check_quiet(tab, address)


def check_quiet(tab, address):
    assert not tab.console_errors
    asked = [request for request in tab.requests if not request.startswith(("data:", "blob:"))]
    assert [request for request in asked if not request.startswith(address)] == []


COUNT_SLIDERS = """
import sys
from hydra import compose, initialize_config_dir
from atrous.command.demo import import_gradio
from atrous.config.place import CONF
from atrous.inference.demo_page import build_page
from atrous.inference.predictor import open_predictor
from atrous.inference.studio import Studio, first_crf
with initialize_config_dir(str(CONF), version_base="1.3"):
    trained = open_predictor(compose("demo", [f"run='{sys.argv[1]}'"]), "cpu")
crf = None if trained.ends_in_crf else first_crf(trained)
gradio = import_gradio()
blocks = build_page(gradio, Studio(trained, crf, None), [])
print("sliders:", sum(isinstance(block, gradio.Slider) for block in blocks.blocks.values()))
"""


def sliders_for(folder):
    done = subprocess.run([sys.executable, "-c", COUNT_SLIDERS, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rpartition("sliders: ")[2])


@pytest.mark.slow
@with_gradio
def test_a_network_that_ends_in_a_crf_has_no_controls_for_one(tmp_path):
    run(tmp_path, "model/crf=recurrent", "trainer.max_steps=2", "trainer.val_check_interval=2", "checkpoint_every=2")
    opened = open_predictor(configured(tmp_path), device="cpu")
    studio = Studio(opened, None, 1024)
    image = np.zeros((33, 41, 3), np.uint8)
    seen = studio.segment(image, "a")
    assert seen.probs is None
    (label,) = labels_of(studio.show(seen, None, fresh=True))
    assert (label == opened.label(image)).all()
    assert sliders_for(tmp_path) == 0
