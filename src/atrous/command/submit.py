"""`atrous submit`: predictions as the archive that a benchmark's server takes, and any such archive checked.

<run>/submit/<split>-<key>/ keeps the prediction of each picture, so that the same command goes on where it was broken
off. The key is of the network's weights, how it looked, its CRF, the dataset and the precision.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omegaconf import DictConfig

from atrous.bar import bar
from atrous.build import build_files, plain
from atrous.data.files import Files, Pair, Pairs
from atrous.data.submission import Form, Size, check_archive, sizes, write_archive
from atrous.disk import make_folder, write_whole
from atrous.segmenter import check_targets, load
from atrous.tally import told
from atrous.trained import Trained, open_trained
from atrous.trial import dataset_of, meaning

log = logging.getLogger("atrous")


def submit(cfg: DictConfig) -> Path:
    """Gives the archive that was made, or checked."""
    if cfg.check is not None:
        return check(cfg)
    trained = open_trained(cfg)
    node = dataset_of(trained.segmenter.about.config, plain(cfg.data), cfg.root, trained.path)
    files = open_files(node, cfg.trust)
    check_classes(trained, files)
    form, split = files.form(cfg.split, cfg.competition), files.unlabelled(cfg.split)
    key = f"{quote(cfg.split, safe='+')}-{trained.key(meaning(node), told(trained.crf))}"
    out = output(cfg.out, trained.home / "submit" / f"{key}{form.archive}", form)
    wanted = sizes(split.pairs)
    folder = make_folder(trained.home / "submit" / key, "run")
    predict(trained, form, split, wanted, folder)
    tell_of_count(form, wanted, cfg.split)
    write(out, form, split, wanted, cfg.split, folder)
    log.info(f"{out}: {len(wanted):,} predictions, checked ({out.stat().st_size / 2**20:.1f} MiB)")
    log.info(f"{form.server} takes it: {form.url}")
    return out


def check(cfg: DictConfig) -> Path:
    if cfg.run is None and cfg.data is None:
        raise ValueError(
            "whose pictures is `check` an archive for? data=voc, data=cityscapes, or run=… and its dataset"
        )
    archive, run = Path(str(cfg.check)).expanduser(), Path(str(cfg.run or "")).expanduser()
    config = load(run, "cpu", cfg.trust).about.config if cfg.run is not None else {}
    files = open_files(dataset_of(config, plain(cfg.data), cfg.root, run), cfg.trust)
    form, wanted = files.form(cfg.split, cfg.competition), sizes(files.unlabelled(cfg.split).pairs)
    tell_of_count(form, wanted, cfg.split)
    with bar(f"checking {archive}") as report:
        check_archive(archive, form, wanted, cfg.split, report)
    log.info(f"{archive}: {len(wanted):,} predictions for {cfg.split}, as {form.server} takes them")
    return archive


# ---- what is asked for ----------------------------------------------------------------------------------------------
def open_files(node: Mapping[str, Any], trust: bool) -> Files:
    check_targets(node, "atrous.data", trust)
    files = build_files(node)
    if not isinstance(files, Files):
        raise ValueError(
            f"{node['_target_']} has no server that takes predictions: data=voc and data=cityscapes have one"
        )
    return files


def check_classes(trained: Trained, files: Files) -> None:
    """A server counts on their order."""
    ours, theirs = trained.labels.names, files.labels.names
    if len(ours) != len(theirs):
        raise ValueError(f"{trained.path} knows {len(ours)} classes, {files.name} has {len(theirs)}")
    for index, (one, other) in enumerate(zip(ours, theirs)):
        if one != other:
            raise ValueError(f"class {index} of {trained.path} is {one!r}, that of {files.name} is {other!r}")


def output(asked: Any, usual: Path, form: Form) -> Path:
    out = usual if asked is None else Path(str(asked)).expanduser()
    if not out.name.endswith(form.archive) or out.is_dir():
        raise ValueError(f"`out={out}` must be a file that ends in {form.archive}: that is what {form.server} takes")
    return out


# ---- the work -------------------------------------------------------------------------------------------------------
def predict(trained: Trained, form: Form, split: Pairs, wanted: Mapping[str, Size], folder: Path) -> None:
    """What is not there yet."""
    todo = [pair for pair in split.pairs if not kept(folder, pair).exists()]
    before, total = len(split.pairs) - len(todo), len(split.pairs)
    if before:
        log.info(f"{before:,} of {total:,} predictions were there")
    with bar(f"predicting {total:,} pictures") as report:
        for done, pair in enumerate(todo, before):
            report(done, total)
            prediction = trained.prediction(split.read_image(pair.image), wanted[pair.name])
            write_whole(kept(folder, pair), form.encode(prediction), durable=False)


def kept(folder: Path, pair: Pair) -> Path:
    return folder / f"{pair.name}.png"


def write(out: Path, form: Form, pairs: Pairs, wanted: Mapping[str, Size], split: str, folder: Path) -> None:
    """The archive is there only once it is known to be right."""
    make_folder(out.parent, "out")
    part = out.with_name(f".part.{out.name}")
    try:
        write_archive(part, form, ((pair.name, kept(folder, pair).read_bytes()) for pair in pairs.pairs))
        with bar(f"checking {out}") as report:
            check_archive(part, form, wanted, split, report)
        os.replace(part, out)
    except ValueError as error:
        cure = f"delete {folder}, in which the predictions are kept, and run the same command again"
        raise ValueError(f"{str(error).replace(str(part), str(out))}\n{cure}") from None
    finally:
        part.unlink(missing_ok=True)


def tell_of_count(form: Form, wanted: Mapping[str, Size], split: str) -> None:
    published = (form.pictures or {}).get(split, len(wanted))
    if len(wanted) != published:
        log.info(f"{split} has {len(wanted):,} pictures here, {published:,} as published: the server wants all of them")
