"""`atrous browse`: draw pictures as the network will get them, with their labels: a contact sheet and a page."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from PIL import Image

from atrous.batch import LabelSpace, Sample
from atrous.config.build import build_augment, build_files
from atrous.config.name import choice
from atrous.config.override import check_number
from atrous.config.schema import Browse, SplitChoice
from atrous.datamodule import AugmentedPictures, PictureDataset, Stream
from atrous.disk import out_folder, write_whole
from atrous.draw.contact_sheet import contact_sheet
from atrous.draw.legend import legend_entries
from atrous.draw.page import class_shares, compress, data_url, fill, template
from atrous.draw.png import png

log = logging.getLogger("atrous")

MOST = 500
"""The most pictures on a page: with more it is slow to open."""


def browse(cfg: Browse) -> Path:
    """Write sheet.png and index.html; return the folder."""
    check_number("count", cfg.count, 1, MOST, "pictures")
    experiment = choice("experiment")
    pictures: PictureDataset = build_files(cfg.data)
    training = cfg.split is SplitChoice.train
    name = pictures.train if training else pictures.val
    split = pictures.split(name)
    if not len(split):
        raise ValueError(f"the split {name!r} is empty: there is nothing to show")
    samples = draw_samples(cfg, split, getattr(pictures, "max_bad", 0)) if training else whole_samples(cfg, split)

    title = f"{experiment}: {describe(cfg, name, len(samples))}"
    page = render(title, facts(cfg, name, len(split)), samples, pictures.labels)
    sheet = contact_sheet(samples, pictures.labels, title=title)
    folder = out_folder(cfg.out, Path(f"runs/browse/{experiment}"))
    for name, content in (("sheet.png", png(Image.fromarray(sheet))), ("index.html", page.encode())):
        write_whole(folder / name, content, durable=False)
        log.info(f"{folder / name}")
    return folder


# ---- which pictures -------------------------------------------------------------------------------------------------
def draw_samples(cfg: Browse, split: Sequence[Sample], max_bad: int) -> list[Sample]:
    """The first draws of the training stream of a run with this seed."""
    dataset = AugmentedPictures(split, build_augment(cfg.augment), max_bad)
    return [dataset[key] for key in Stream(len(split), cfg.seed, stop=cfg.count)]


def whole_samples(cfg: Browse, split: Sequence[Sample]) -> list[Sample]:
    """Return the first pictures of the split, whole."""
    return [split[k] for k in range(min(cfg.count, len(split)))]


# ---- the page -------------------------------------------------------------------------------------------------------
def render(title: str, facts: Mapping[str, str], samples: Sequence[Sample], labels: LabelSpace) -> str:
    """Fill the template with the pictures, their labels and the classes: one file that needs no other."""
    classes = [
        {"value": entry.value, "name": entry.name, "colour": entry.rgb}
        for entry in legend_entries((sample.label for sample in samples), labels)
    ]
    data = {"title": title, "facts": facts, "classes": classes, "cards": [card(sample) for sample in samples]}
    return fill(template("browse.html"), title, data)


def card(sample: Sample) -> dict[str, Any]:
    height, width = sample.label.shape
    return {
        "name": sample.name,
        "width": width,
        "height": height,
        "image": data_url(sample.image),
        "packed": compress(sample.label),
        "shares": class_shares(sample.label),
    }


# ---- captions --------------------------------------------------------------------------------------------------------
def describe(cfg: Browse, name: str, count: int) -> str:
    """Describe the pictures in a few words, for the title."""
    several = "s" if count > 1 else ""
    if cfg.split is SplitChoice.val:
        return f"{count} picture{several} of {name}, whole"
    return f"{count} draw{several} from {name}, {'whole' if cfg.augment is None else 'augmented'}, seed {cfg.seed}"


def facts(cfg: Browse, name: str, length: int) -> dict[str, str]:
    """Return where the pictures come from, how they were augmented, and the command that makes them again."""
    lines = {"dataset": f"{choice('data')} ({values(cfg.data)})", "split": f"{name}, {length:,} pictures"}
    if cfg.split is SplitChoice.train:
        lines["augment"] = "null" if cfg.augment is None else f"{choice('augment')} ({values(cfg.augment)})"
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return lines | {"command": shlex.join(["atrous", "browse", *overrides])}


def values(node: Any) -> str:
    """Return the arguments on one line: crop 321, scales [0.5, 1], …"""
    plain: Any = OmegaConf.to_container(node, resolve=True)
    given = {key: value for key, value in plain.items() if key != "_target_" and value is not None}
    return ", ".join(
        f"{key} {json.dumps(value) if not isinstance(value, str) else value}" for key, value in given.items()
    )
