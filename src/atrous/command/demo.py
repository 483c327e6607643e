"""`atrous demo`: a page in the browser that shows what a trained network sees, and what a CRF makes of it."""

from __future__ import annotations

import html
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.resources import files
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra.errors import HydraException
from omegaconf import DictConfig
from PIL import Image, ImageOps
from torch import Tensor

from atrous.batch import LabelSpace
from atrous.config.build import build_files
from atrous.crf import DenseCRF
from atrous.draw.page import data_url, packed, shares
from atrous.inference.predictor import Trained, open_trained
from atrous.inference.segmenter import check_targets, pixels

log = logging.getLogger("atrous")

ADDRESS = "127.0.0.1"
PORTS = range(7860, 7960)
EXAMPLES = 8
OPEN_PAGES = 4
"""So many keep the probabilities of their picture in memory: the page that was used longest ago forgets them first."""


PAGE = """
.gradio-container main.contain { padding: 8px 12px; }
.gradio-container .main { max-width: 1720px !important; padding: 12px 20px !important; }
#heading h1 { margin: 0; font-size: 24px; font-weight: 650; color: var(--body-text-color); }
#heading p { margin: 2px 0 0; font-size: 14px; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
#heading b { font-weight: 600; color: var(--body-text-color); }
#crf .block { padding: 8px 12px; }
#crf .min_value, #crf .max_value { display: none; }
#crf input[type=number] { width: 58px; padding: 2px 6px; text-align: right; }
#reset { border-radius: 0; }
/* gradio fades what is about to change. Here it stays, to be compared, and a bar tells of work that takes longer. */
#viewer [data-testid=status-tracker] { display: none; }
#viewer .pending { opacity: 1 !important; }
#viewer .html-container.pending::after {
  content: ""; position: fixed; z-index: 100; inset: 0 0 auto 0; height: 3px; opacity: 0;
  background: var(--color-accent); transform-origin: left; animation: working 1.2s ease-in-out 0.3s infinite;
}
@keyframes working {
  0% { opacity: 1; transform: scaleX(0); }
  70% { opacity: 1; transform: scaleX(1); }
  100% { opacity: 0; transform: scaleX(1); }
}
"""

THUMBNAILS = """
display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px;
p { grid-column: 1 / -1; margin: 0; font-size: 14px; color: var(--body-text-color-subdued); }
button { padding: 0; border-radius: 6px; overflow: hidden; aspect-ratio: 1; cursor: pointer; }
button:hover, button:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 1px; }
img { width: 100%; height: 100%; margin: 0; object-fit: cover; display: block; }
"""

ON_THUMBNAIL = """
element.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (button) trigger("select", {index: Number(button.dataset.index)});
});
"""


def demo(cfg: DictConfig) -> None:
    """Serves the page until it is interrupted."""
    if find_spec("gradio") is None:
        raise ValueError("the page needs the package gradio: pip install 'gradio>=6.31' (or: make demo RUN=…)")
    if cfg.largest is not None and not (isinstance(cfg.largest, int) and cfg.largest >= 1):
        raise ValueError(f"`largest` must be a number of pixels, or null for no limit (got {cfg.largest})")
    port = free_port(cfg.port)
    trained = open_trained(cfg)
    studio = Studio(trained, None if trained.segmenter.about.ends_in_crf else first_crf(trained), cfg.largest)
    gradio = import_gradio()
    signal.signal(signal.SIGTERM, end)
    with tempfile.TemporaryDirectory(prefix="atrous-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # what is dropped on the page is gone when it is closed
        blocks = page(gradio, studio, examples(trained, cfg.trust, cfg.largest))
        address = launch(gradio, blocks, port)
        log.info(f"{address}  (Ctrl-C ends it)")
        if cfg.open:
            open_browser(address)
        try:
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)


def end(number: int, _: Any) -> None:
    """Asked to end, it ends as if interrupted: what was dropped on the page is removed."""
    raise SystemExit(128 + number)


def import_gradio() -> Any:
    """gradio, told to keep to itself before it is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio

    return gradio


# ---- what is computed -----------------------------------------------------------------------------------------------
class Seen(NamedTuple):
    """A picture and what the network gave for it: all that a CRF with other values needs."""

    key: int  # a later one is greater
    image: np.ndarray  # (H, W, 3) uint8 RGB, as the network saw it
    prediction: np.ndarray  # (H, W) uint8, the network's own
    probs: Tensor | None  # (C, H, W); None where no CRF will ask for them
    name: str
    note: str
    seconds: float


class Studio:
    """crf: the one at which the sliders start; None where the network ends in one of its own."""

    def __init__(self, trained: Trained, crf: DenseCRF | None, largest: int | None):
        self.trained, self.crf, self.largest = trained, crf, largest
        self._keys = count(1)

    def look(self, image: np.ndarray, name: str) -> Seen:
        """The network at work, once."""
        small = shrunk(image, self.largest)
        started = time.perf_counter()
        scores = self.trained.scores(small)
        prediction = scores.max(0).indices.byte().cpu().numpy()
        seconds = time.perf_counter() - started
        probs = None if self.crf is None else scores.softmax(0)
        size = f"{image.shape[1]} × {image.shape[0]} pixels"
        if small.shape != image.shape:
            size += f", shrunk to {small.shape[1]} × {small.shape[0]} (largest={self.largest})"
        return Seen(next(self._keys), small, prediction, probs, name, size, seconds)

    def refined(self, seen: Seen, crf: DenseCRF) -> np.ndarray:
        """(H, W) uint8, after this CRF. The network is not asked again."""
        assert seen.probs is not None
        probs = self.trained._replace(crf=crf).refine(seen.image, seen.probs)
        return probs.max(0).indices.byte().cpu().numpy()

    def show(self, seen: Seen, crf: DenseCRF | None, fresh: bool) -> str:
        """What the page draws, as JSON; the picture itself only where it is `fresh`, for the page keeps it."""
        height, width = seen.prediction.shape
        told: dict[str, Any] = {"key": seen.key, "name": seen.name, "note": seen.note, "width": width, "height": height}
        panels = [panel("network", seen.prediction, seen.seconds)]
        if crf is not None:
            started = time.perf_counter()
            label = self.refined(seen, crf)
            panels.append(panel("after the CRF", label, time.perf_counter() - started))
            told |= {"changed": float((label != seen.prediction).mean()), "words": words(crf)}
        return json.dumps(told | {"panels": panels} | ({"image": data_url(seen.image)} if fresh else {}))


def words(crf: DenseCRF) -> str | None:
    """This CRF on a command line; None where that takes a file, for it has a matrix of its own."""
    if crf.compatibility is not None:
        return None
    values = " ".join(f"crf.{each.key}={getattr(crf, each.key):g}" for each in SLIDERS)
    return f"crf={'v1' if crf.normalization == 'after' else 'v2'} {values}"


def panel(title: str, label: np.ndarray, seconds: float) -> dict[str, Any]:
    return {"title": title, "packed": packed(label), "shares": shares(label), "seconds": round(seconds, 3)}


def shrunk(image: np.ndarray, largest: int | None) -> np.ndarray:
    longer = max(image.shape[:2])
    if largest is None or longer <= largest:
        return image
    height, width = (max(1, round(n * largest / longer)) for n in image.shape[:2])
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def first_crf(trained: Trained) -> DenseCRF:
    """That of the command, or of the run, or v2's."""
    crf: Any = trained.crf or trained.segmenter.usual_crf()
    return crf


def examples(trained: Trained, trust: bool, largest: int | None) -> list[tuple[np.ndarray, str]]:
    """Some pictures of the run's own validation split, where it is at hand."""
    data = trained.segmenter.about.config.get("data")
    if data is None:
        return []
    check_targets(data, "atrous.data", trust)
    try:
        pictures = build_files(data)
        split = pictures.split(pictures.val)
        samples = [split[k] for k in range(min(EXAMPLES, len(split)))]
    except (ValueError, OSError, HydraException):  # no more is wrong than that the dataset is not here
        return []
    return [(shrunk(sample.image, largest), sample.name) for sample in samples]


# ---- the page -------------------------------------------------------------------------------------------------------
class Slider(NamedTuple):
    key: str
    title: str
    least: float
    most: float
    step: float


SLIDERS = (
    Slider("w1", "w1 · weight, by place and colour", 0, 20, 0.5),
    Slider("sigma_alpha", "sigma_alpha · reach, in pixels", 1, 160, 1),
    Slider("sigma_beta", "sigma_beta · reach, in colour", 1, 60, 1),
    Slider("w2", "w2 · weight, by place alone", 0, 20, 0.5),
    Slider("sigma_gamma", "sigma_gamma · reach, in pixels", 0.5, 20, 0.5),
    Slider("iterations", "iterations", 0, 30, 1),
)


def page(gradio: Any, studio: Studio, pictures: Sequence[tuple[np.ndarray, str]]) -> Any:
    """The gradio.Blocks: controls on the left; on the right the viewer, which is our own HTML."""
    body, css, script = pieces()
    labels = studio.trained.labels
    with gradio.Blocks(title="atrous demo", analytics_enabled=False, fill_width=True) as blocks:
        gradio.HTML(heading(studio.trained), apply_default_css=False, elem_id="heading")
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=1, min_width=300):
                drop = gradio.Image(
                    type="filepath", image_mode=None, sources=["upload"], buttons=[], height=150, show_label=False,
                    placeholder="Drop a picture here", elem_id="drop",
                )  # fmt: skip
                thumbs = thumbnails(gradio, pictures)
                switch, sliders, reset = crf_controls(gradio, studio.crf)
            with gradio.Column(scale=3, min_width=480):
                viewer = gradio.HTML(
                    "", html_template=body, css_template=css, js_on_load=script, apply_default_css=False,
                    elem_id="viewer", classes=json.dumps(classes(labels)),
                )  # fmt: skip
        connect(gradio, studio, pictures, Parts(gradio.State(None), drop, thumbs, switch, sliders, reset, viewer))
    return blocks


class Parts(NamedTuple):
    seen: Any
    drop: Any
    thumbs: Any
    switch: Any
    sliders: list[Any]
    reset: Any
    viewer: Any


def thumbnails(gradio: Any, pictures: Sequence[tuple[np.ndarray, str]]) -> Any:
    buttons = [
        f'<button type="button" data-index="{k}" title="{html.escape(name)}">'
        f'<img alt="" src="{thumbnail(image)}"></button>'
        for k, (image, name) in enumerate(pictures)
    ]
    return gradio.HTML(
        "<p>or click a validation picture of the run</p>" + "".join(buttons), css_template=THUMBNAILS,
        js_on_load=ON_THUMBNAIL, apply_default_css=False, visible=bool(pictures), elem_id="examples",
    )  # fmt: skip


def thumbnail(image: np.ndarray) -> str:
    return data_url(np.array(ImageOps.fit(Image.fromarray(image), (160, 160))))


def crf_controls(gradio: Any, crf: DenseCRF | None) -> tuple[Any, list[Any], Any]:
    """A switch, the sliders at this CRF's values, and what brings them back there; hidden where there is no CRF."""
    with gradio.Group(visible=crf is not None, elem_id="crf"):
        switch = gradio.Checkbox(crf is not None, label="refine by the fully connected CRF", elem_id="switch")
        sliders = [slider(gradio, crf, each) for each in SLIDERS] if crf is not None else []
        reset = gradio.Button("Back to the first values", size="sm", elem_id="reset")
    return switch, sliders, reset


def slider(gradio: Any, crf: DenseCRF, each: Slider) -> Any:
    value = float(getattr(crf, each.key))
    least, most, step = scale(each, value)
    return gradio.Slider(least, most, value, step=step, label=each.title, elem_id=each.key, buttons=[])


def scale(each: Slider, value: float) -> tuple[float, float, float]:
    """From where to where and in which steps, so that the value is one of them."""
    return min(each.least, value), max(each.most, value), step_of(value, each.step)


def step_of(value: float, usual: float) -> float:
    """The usual step where it meets the value, or else one that does."""
    steps = (usual, 0.1, 0.01, 0.001)
    return next((step for step in steps if abs(value / step - round(value / step)) < 1e-6), 1e-6)


def connect(gradio: Any, studio: Studio, pictures: Sequence[tuple[np.ndarray, str]], parts: Parts) -> None:
    """What happens when something on the page is used."""
    controls = [parts.switch, *parts.sliders]
    # One at a time: two would only slow each other down.
    how = {"concurrency_id": "work", "concurrency_limit": 1, "api_visibility": "private", "show_progress": "minimal"}

    def crf_of(on: bool, values: Sequence[float]) -> DenseCRF | None:
        if studio.crf is None or not on:
            return None
        chosen: dict[str, Any] = {each.key: value for each, value in zip(SLIDERS, values, strict=True)}
        return replace(studio.crf, **chosen | {"iterations": round(chosen["iterations"])})

    def on_drop(file: dict[str, Any] | None, on: bool, *values: float) -> tuple[Any, str]:
        if file is None:
            return None, ""
        name = file.get("orig_name") or Path(file["path"]).name
        with told_on_page(gradio, {file["path"]: name}):
            seen = studio.look(pixels(file["path"]), name)
            return seen, studio.show(seen, crf_of(on, values), fresh=True)

    def on_example(chosen: Any, on: bool, *values: float) -> tuple[Any, str, None]:
        with told_on_page(gradio):
            seen = studio.look(*pictures[chosen.index])
            return seen, studio.show(seen, crf_of(on, values), fresh=True), None

    def on_crf(seen: Seen | None, on: bool, *values: float) -> Any:
        if seen is None:
            return gradio.skip()
        with told_on_page(gradio):
            return studio.show(seen, crf_of(on, values), fresh=False)

    on_example.__annotations__["chosen"] = gradio.EventData  # by that gradio knows what to put there
    # preprocess: gradio would open the picture itself, and tell no one of one that it can't open.
    parts.drop.input(on_drop, [parts.drop, *controls], [parts.seen, parts.viewer], preprocess=False, **how)
    parts.thumbs.select(on_example, controls, [parts.seen, parts.viewer, parts.drop], **how)
    # While one is computed the sliders may move on: then only the last position is computed.
    moved = [control.change for control in controls]
    gradio.on(moved, on_crf, [parts.seen, *controls], parts.viewer, trigger_mode="always_last", **how)
    first = [each.value for each in parts.sliders]
    parts.reset.click(lambda: first, None, parts.sliders, api_visibility="private")


@contextmanager
def told_on_page(gradio: Any, names: Mapping[str, str] | None = None) -> Iterator[None]:
    """What is wrong with a picture is told where it was dropped, by the name that it had there."""
    try:
        yield
    except torch.OutOfMemoryError:
        cure = "start with a smaller `largest`, or with tiles: slide.crop=513"
        raise gradio.Error(f"the device's memory is full: {cure}", print_exception=False) from None
    except (ValueError, OSError) as error:
        message = str(error)
        for path, name in (names or {}).items():
            message = message.replace(path, name)
        raise gradio.Error(html.escape(message), print_exception=False) from None


def pieces() -> tuple[str, str, str]:
    """What gradio wants apart, of a file that holds all of the viewer: HTML, CSS, JavaScript."""
    text = files("atrous.command").joinpath("demo.html").read_text("utf-8")
    css, _, rest = text.partition("<style>")[2].partition("</style>")
    body, _, rest = rest.partition("<script>")
    return body.strip(), css, rest.partition("</script>")[0]


def classes(labels: LabelSpace) -> list[dict[str, Any]]:
    return [{"name": name, "colour": rgb} for name, rgb in zip(labels.names, labels.palette.tolist(), strict=True)]


def heading(trained: Trained) -> str:
    segmenter = trained.segmenter
    facts = [f"{len(trained.labels)} classes", str(segmenter.device)]
    if trained.view.words:
        facts.append(f"seen as {' '.join(trained.view.words)}")
    if segmenter.about.ends_in_crf:
        facts.append("ends in a CRF of its own")
    told = " · ".join(html.escape(fact) for fact in facts)
    return f"<h1>atrous demo</h1><p><b>{html.escape(str(trained.path))}</b> · {told}</p>"


# ---- the server -----------------------------------------------------------------------------------------------------
def free_port(asked: int | None) -> int:
    if asked is not None and not (isinstance(asked, int) and 1 <= asked <= 65535):
        raise ValueError(f"`port` must be 1 to 65535, or null for one that is free (got {asked})")
    for port in PORTS if asked is None else (asked,):
        if is_free(port):
            return port
    if asked is None:
        raise ValueError(f"none of the ports {PORTS[0]} to {PORTS[-1]} is free: port=… names another one")
    raise ValueError(f"`port={asked}` can't be had (is another page served there?): leave it out to get a free one")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server does it: a port that was closed a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except (OSError, OverflowError):
            return False
    return True


def launch(gradio: Any, blocks: Any, port: int) -> str:
    """Starts to serve, on this machine for this machine; gives the address."""
    reach_directly()
    blocks.queue(api_open=False)
    blocks.launch(
        server_name=ADDRESS, server_port=port, share=False, inbrowser=False, prevent_thread_lock=True, quiet=True,
        state_session_capacity=OPEN_PAGES, max_file_size="200mb", ssr_mode=False, pwa=False, mcp_server=False,
        run_history=False, enable_monitoring=False, footer_links=[], root_path="", theme=theme(gradio), css=PAGE,
    )  # fmt: skip
    return f"http://{ADDRESS}:{port}/"


def reach_directly() -> None:
    """gradio looks whether its own page answers, and would ask a proxy for it."""
    for name in ("no_proxy", "NO_PROXY"):
        known = os.environ.get(name, "")
        if ADDRESS not in known.split(","):
            os.environ[name] = f"{known},{ADDRESS}".strip(",")


def theme(gradio: Any) -> Any:
    """The system's fonts: others would be fetched."""
    font, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    return gradio.themes.Base(primary_hue="blue", neutral_hue="gray", font=font, font_mono=mono, radius_size="lg")


def open_browser(address: str) -> None:
    """Where there is a screen: a browser in a terminal would take the terminal."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    with suppress(OSError, webbrowser.Error):
        webbrowser.open(address)
