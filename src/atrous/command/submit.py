"""`atrous submit`: predictions as the archive that a benchmark's server takes, and any such archive checked.

<run>/submit/<split>-<key>/ keeps the prediction of each picture, so that the same command goes on where it was broken
off. The key is of the network's weights, how it looked, its CRF, the dataset and the precision.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omegaconf import DictConfig

from atrous.config.build import build_files, plain
from atrous.config.trust import check_targets
from atrous.console import bar
from atrous.data.files import Files, no_server
from atrous.data.pairs import Pair, Pairs
from atrous.data.submission import Form, write_archive
from atrous.data.submission_check import Refused, Size, check_archive, picture_sizes
from atrous.disk import make_folder, replacing, write_whole
from atrous.evaluation.counts import cache_key
from atrous.evaluation.evaluator import check_classes, data_identity, dataset_of
from atrous.inference.predictor import Predictor, open_predictor

log = logging.getLogger("atrous")

FEW = 5
"""So many bad predictions are named."""


def submit(cfg: DictConfig) -> Path:
    """Return the archive that was made, or checked."""
    if cfg.split is None:
        raise ValueError("`split` must name the pictures: split=test are those that the server wants")
    if cfg.check is not None:
        return check(cfg)
    predictor = open_predictor(cfg)
    node = dataset_of(predictor.config, plain(cfg.data), cfg.root, predictor.path)
    files = open_files(node, cfg.trust)
    check_classes(predictor, files.labels)
    form, split = files.form(cfg.split, cfg.competition), files.unlabelled(cfg.split)
    key = f"{quote(cfg.split, safe='+')}-{predictor.key(data_identity(node, split), cache_key(predictor.crf))}"
    out = output(cfg.out, predictor.home / "submit" / f"{key}{form.archive}", form)
    wanted = picture_sizes(split.pairs)
    folder = make_folder(predictor.home / "submit" / key, "run")
    predict(predictor, form, split, wanted, folder)
    warn_of_count(form, wanted, cfg.split)
    write(out, form, split, wanted, cfg.split, folder)
    log.info(f"{out}: {len(wanted):,} predictions, checked ({out.stat().st_size / 2**20:.1f} MiB)")
    log.info(f"{form.server} takes it: {form.url}")
    return out


def check(cfg: DictConfig) -> Path:
    if cfg.run is None and cfg.data is None:
        raise ValueError(
            "whose pictures is `check` an archive for? data=voc, data=cityscapes, or run=… and its dataset"
        )
    archive = Path(str(cfg.check)).expanduser()
    predictor = (
        None if cfg.run is None else open_predictor(cfg, "cpu")
    )  # of which no more than its dataset is asked for
    config, path = ({}, Path()) if predictor is None else (predictor.config, predictor.path)
    files = open_files(dataset_of(config, plain(cfg.data), cfg.root, path), cfg.trust)
    form, wanted = files.form(cfg.split, cfg.competition), picture_sizes(files.unlabelled(cfg.split).pairs)
    warn_of_count(form, wanted, cfg.split)
    with bar(f"checking {archive}") as report:
        check_archive(archive, form, wanted, cfg.split, report)
    log.info(f"{archive}: {len(wanted):,} predictions for {cfg.split}, as {form.server} takes them")
    return archive


# ---- what is asked for ----------------------------------------------------------------------------------------------
def open_files(node: Mapping[str, Any], trust: bool) -> Files:
    check_targets(node, "atrous.data", trust)
    files = build_files(node)
    if not isinstance(files, Files):
        raise no_server(node["_target_"])
    return files


def output(asked: Any, usual: Path, form: Form) -> Path:
    out = usual if asked is None else Path(str(asked)).expanduser()
    if not out.name.endswith(form.archive) or out.is_dir():
        raise ValueError(f"`out={out}` must be a file that ends in {form.archive}: that is what {form.server} takes")
    return out


# ---- the work -------------------------------------------------------------------------------------------------------
def predict(predictor: Predictor, form: Form, split: Pairs, wanted: Mapping[str, Size], folder: Path) -> None:
    """Predict the pictures whose prediction is not kept yet."""
    todo = [pair for pair in split.pairs if not kept_path(folder, pair).exists()]
    before, total = len(split.pairs) - len(todo), len(split.pairs)
    if before:
        log.info(f"{before:,} of {total:,} predictions were there")
    with bar(f"predicting {total:,} pictures") as report:
        for done, pair in enumerate(todo, before):
            report(done, total)
            prediction = predictor.label(split.read_image(pair.image), wanted[pair.name])
            write_whole(kept_path(folder, pair), form.encode(prediction), durable=False)


def kept_path(folder: Path, pair: Pair) -> Path:
    return folder / f"{pair.name}.png"


def write(out: Path, form: Form, pairs: Pairs, wanted: Mapping[str, Size], split: str, folder: Path) -> None:
    """The archive is there only once it is known to be right."""
    make_folder(out.parent, "out")
    files = {pair.name: kept_path(folder, pair) for pair in pairs.pairs}
    with replacing(out) as part:
        write_archive(part, form, files, lambda name: files[name].read_bytes())
        try:
            with bar(f"checking {out}") as report:
                check_archive(part, form, wanted, split, report)
        except Refused as error:
            problem, bad = str(error).replace(str(part), str(out)), [files[name] for name in error.pictures]
            raise ValueError(f"{problem}\ndelete {name_files(bad, folder)} and run the same command again") from None


def name_files(bad: Sequence[Path], folder: Path) -> str:
    """A few by their names; of many it is quicker to make all again."""
    if len(bad) > FEW:
        return f"{folder}, in which the predictions are kept,"
    return ", ".join(map(str, bad))


def warn_of_count(form: Form, wanted: Mapping[str, Size], split: str) -> None:
    published = (form.pictures or {}).get(split, len(wanted))
    if len(wanted) != published:
        log.info(f"{split} has {len(wanted):,} pictures here, {published:,} as published: the server wants all of them")
