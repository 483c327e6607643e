"""The demo's page in gradio: a drop zone, examples and sliders on the left, our own viewer on the right."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from atrous.batch import LabelSpace
from atrous.crf import DenseCRF
from atrous.draw.page import data_url, template
from atrous.inference.predictor import Predictor
from atrous.inference.segmenter import pixels
from atrous.inference.studio import Segmented, Studio


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


def build_page(gradio: Any, studio: Studio, pictures: Sequence[tuple[np.ndarray, str]]) -> Any:
    """The gradio.Blocks: controls on the left; on the right the viewer, which is our own HTML."""
    body, css, script = pieces()
    labels = studio.predictor.labels
    with gradio.Blocks(title="atrous demo", analytics_enabled=False, fill_width=True) as blocks:
        gradio.HTML(heading(studio.predictor), apply_default_css=False, elem_id="heading")
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
    segmented: Any
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
        "<p>or click a validation picture of the run</p>" + "".join(buttons),
        css_template=template("demo_thumbnails.css"), js_on_load=template("demo_thumbnails.js"),
        apply_default_css=False, visible=bool(pictures), elem_id="examples",
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
    """Connect the controls with the studio."""
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
        with errors_on_page(gradio, {file["path"]: name}):
            segmented = studio.segment(pixels(file["path"]), name)
            return segmented, studio.show(segmented, crf_of(on, values), fresh=True)

    def on_example(chosen: Any, on: bool, *values: float) -> tuple[Any, str, None]:
        with errors_on_page(gradio):
            segmented = studio.segment(*pictures[chosen.index])
            return segmented, studio.show(segmented, crf_of(on, values), fresh=True), None

    def on_crf(segmented: Segmented | None, on: bool, *values: float) -> Any:
        if segmented is None:
            return gradio.skip()
        with errors_on_page(gradio):
            return studio.show(segmented, crf_of(on, values), fresh=False)

    on_example.__annotations__["chosen"] = gradio.EventData  # so that gradio knows what to pass
    # preprocess: gradio would open the picture itself, and tell no one of one that it can't open.
    parts.drop.input(on_drop, [parts.drop, *controls], [parts.segmented, parts.viewer], preprocess=False, **how)
    parts.thumbs.select(on_example, controls, [parts.segmented, parts.viewer, parts.drop], **how)
    # While one is computed the sliders may move on: then only the last position is computed.
    moved = [control.change for control in controls]
    gradio.on(moved, on_crf, [parts.segmented, *controls], parts.viewer, trigger_mode="always_last", **how)
    first = [each.value for each in parts.sliders]
    parts.reset.click(lambda: first, None, parts.sliders, api_visibility="private")


@contextmanager
def errors_on_page(gradio: Any, names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Show what is wrong with a picture on the page, by the name that it had there."""
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
    """The viewer's HTML, CSS and JavaScript, which gradio takes one by one, from the one file that holds them."""
    text = template("demo.html")
    css, _, rest = text.partition("<style>")[2].partition("</style>")
    body, _, rest = rest.partition("<script>")
    return body.strip(), css, rest.partition("</script>")[0]


def classes(labels: LabelSpace) -> list[dict[str, Any]]:
    return [{"name": name, "colour": rgb} for name, rgb in zip(labels.names, labels.palette.tolist(), strict=True)]


def heading(predictor: Predictor) -> str:
    facts = [f"{len(predictor.labels)} classes", str(predictor.device)]
    if predictor.view.name_parts:
        facts.append(f"seen as {' '.join(predictor.view.name_parts)}")
    if predictor.ends_in_crf:
        facts.append("ends in a CRF of its own")
    line = " · ".join(html.escape(fact) for fact in facts)
    return f"<h1>atrous demo</h1><p><b>{html.escape(str(predictor.path))}</b> · {line}</p>"


def theme(gradio: Any) -> Any:
    """The system's fonts: others would be fetched."""
    font, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    return gradio.themes.Base(primary_hue="blue", neutral_hue="gray", font=font, font_mono=mono, radius_size="lg")
