"""`atrous check-data`: audit a dataset before any training; write its statistics, and class weights made from them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig

from atrous.config.build import build_files
from atrous.console import bar, duration, text
from atrous.data.audit import Audit, ListFacts, ProblemCount, Problems
from atrous.data.files import Files
from atrous.data.statistics import LabelStatistics, inverse_log, median_frequency
from atrous.disk import make_folder, write_whole

log = logging.getLogger("atrous")

WIDTH = 100
"""Characters in a line of the report."""

WEIGHTS: dict[str, tuple[str, Callable[[LabelStatistics], np.ndarray]]] = {
    "median_frequency": ("Median frequency balancing (Eigen and Fergus, SegNet)", median_frequency),
    "inverse_log": ("1 / ln(1.02 + share of the labelled pixels) (ENet)", inverse_log),
}
"""{file's name: its description, and the function that makes the weights}"""


def check_data(cfg: DictConfig) -> dict[str, Any]:
    """Print and write the report, and write the class weights; raise at the end if anything is wrong."""
    limit, workers = at_least(1, "limit", cfg.limit), at_least(0, "workers", cfg.workers)
    dataset = build_files(cfg.data)
    name = getattr(dataset, "name", type(dataset).__name__.lower())
    if isinstance(dataset, Files):
        log.info(f"{name} at {dataset.root.absolute()}\n")
    else:
        log.info(f"{name}: its pictures are drawn on the fly, there are no files\n")
    audit = Audit(dataset, limit, cfg.subset)
    if isinstance(dataset, Files):
        log.info(list_table(audit.lists))
        log.info(f"{audit.files:,} files, {f'{audit.missing:,}' if audit.missing else 'none'} missing")
    folder = make_folder(Path(f"runs/data/{name}" if cfg.out is None else str(cfg.out)).expanduser(), "out")
    read_pictures(audit, workers)

    splits = {"train": dataset.train, "val": dataset.val}
    weights = {key: make(audit.statistics["train"]) for key, (_, make) in WEIGHTS.items()}
    log.info(class_table(dataset.labels.names, splits, audit.statistics, weights))
    report = plain_report(name, audit, limit, splits)
    save(folder, report, weights)
    if audit.problems:
        log.info(describe(audit.problems).rstrip())
        raise ValueError(f"{len(audit.problems)} problem{'s' if len(audit.problems) > 1 else ''}: see above")
    log.info("no problems")
    return report


def at_least(least: int, key: str, value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise ValueError(f"`{key}` must be null or a whole number, {least} or more (got {value!r})")
    return value


def read_pictures(audit: Audit, workers: int | None) -> None:
    began = time.monotonic()
    with bar(f"reading {audit.pictures:,} pictures") as report:
        audit.read(workers, report)
    took = time.monotonic() - began
    log.info(f"{audit.pictures:,} pictures read in {f'{took:.1f} s' if took < 60 else duration(took)}\n")


# ---- printing -------------------------------------------------------------------------------------------------------
def describe(problems: Problems) -> str:
    return "".join(wrap(line) for kind, problem in problems.items() for line in problem_lines(kind, problem))


def problem_lines(kind: str, problem: ProblemCount) -> Iterator[str]:
    if problem.count == 1:
        yield f"problem: {kind}: {problem.first[0]}"
        return
    yield f"problem: {kind}: {problem.count:,}"
    yield from (f"  {message}" for message in problem.first)
    if problem.count > len(problem.first):
        yield f"  … and {problem.count - len(problem.first):,} more"


def list_table(lists: Mapping[str, ListFacts]) -> str:
    """The lists beside the published ones."""
    rows = []
    for name, facts in lists.items():
        count = "" if facts.published is None else f"{facts.published.count:,}"
        md5 = None if facts.published is None else facts.published.md5
        beside = "" if md5 is None else "as published" if md5 == facts.md5 else f"published: {md5[:12]}…"
        rows.append([name, f"{facts.pictures:,}", count, f"{facts.md5[:12]}…", beside])
    return format_table(["list", "pictures", "published", "<md5 of sorted ids", "<"], rows)


def class_table(
    names: Sequence[str],
    splits: Mapping[str, str],
    statistics: Mapping[str, LabelStatistics],
    weights: Mapping[str, np.ndarray],
) -> str:
    """The classes with their weights, then void, then the classes that never occur."""
    train, val = statistics["train"], statistics["val"]
    head = ["class", "pixels", "%", "pictures", f"% in {splits['val']}", "median freq", "inverse log"]
    rows = [
        [name, f"{train.pixels[c]:,}", percent(share), f"{train.occurrences[c]:,}", percent(other)]
        + [f"{weight[c]:.4f}" if weight[c] else "0" for weight in weights.values()]
        for c, (name, share, other) in enumerate(zip(names, train.shares(), val.shares()))
    ]
    void = [f"{train.pixels[-1]:,}", percent(train.void_share), f"{train.occurrences[-1]:,}", percent(val.void_share)]
    report = f"{splits['train']}, {train.pictures:,} pictures, beside {splits['val']}, {val.pictures:,}\n"
    report += format_table(head, [*rows, ["void", *void, "", ""]], last_apart=True)
    report += "%: of the labelled pixels; void: of all pixels\n"
    for role, split in splits.items():
        absent = statistics[role].absent(names)
        if absent and statistics[role].pictures:
            report += wrap(f"never in {split}{' (weight 0)' if role == 'train' else ''}: {', '.join(absent)}")
    return report


def wrap(line: str) -> str:
    """Lines of at most WIDTH; a longer word, such as a path, stays whole."""
    indent = " " * (len(line) - len(line.lstrip()))
    return fill(line, WIDTH, subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False) + "\n"


def percent(share: float) -> str:
    return "0" if not share else f"{100 * share:.2f}" if share >= 1e-4 else f"{100 * share:.1g}"


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], last_apart: bool = False) -> str:
    """A table as text; numbers are right-aligned, but for the first column and heads that begin with <."""
    from rich.box import SIMPLE_HEAD  # only once there is a table to print
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for index, title in enumerate(head):
        left = index == 0 or title.startswith("<")
        table.add_column(title.lstrip("<"), justify="left" if left else "right", no_wrap=True)
    for index, row in enumerate(rows):
        table.add_row(*row, end_section=last_apart and index == len(rows) - 2)
    return "".join(f"{line.rstrip()}\n" for line in text(table, WIDTH).splitlines())


# ---- writing --------------------------------------------------------------------------------------------------------
def plain_report(name: str, audit: Audit, limit: int | None, splits: Mapping[str, str]) -> dict[str, Any]:
    """The report in dictionaries, lists and numbers, as statistics.yaml holds it."""
    dataset = audit.dataset
    return {
        "dataset": name,
        **({"root": str(dataset.root.absolute())} if isinstance(dataset, Files) else {}),
        **({"limit": limit} if limit else {}),
        "lists": {name: plain_list(facts) for name, facts in audit.lists.items()},
        "problems": {kind: {"count": p.count, "first": p.first} for kind, p in audit.problems.items()},
        "splits": {
            role: plain_statistics(splits[role], statistics, dataset.labels.names)
            for role, statistics in audit.statistics.items()
        },
    }


def plain_list(facts: ListFacts) -> dict[str, Any]:
    published = facts.published
    known = {} if published is None else {"published_pictures": published.count, "published_md5": published.md5}
    return {"pictures": facts.pictures, "md5": facts.md5, **known}


def plain_statistics(split: str, statistics: LabelStatistics, names: Sequence[str]) -> dict[str, Any]:
    def plain(c: int, share: float) -> dict[str, Any]:
        pixels, pictures = int(statistics.pixels[c]), int(statistics.occurrences[c])
        return {"pixels": pixels, "share": round_digits(share), "pictures": pictures}

    return {
        "list": split,
        "pictures": statistics.pictures,
        "labelled_pixels": statistics.labelled,
        "void": plain(-1, statistics.void_share),
        "classes": {name: plain(c, share) for c, (name, share) in enumerate(zip(names, statistics.shares()))},
    }


def round_digits(number: float) -> float:
    return float(f"{number:.6g}")


def save(folder: Path, report: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    """Write statistics.yaml, and a file for each kind of weights where there are any."""
    train = report["splits"]["train"]
    source = f"{train['pictures']} pictures of {train['list']}, {report['dataset']}"
    write_yaml(folder / "statistics.yaml", "The report of atrous check-data", report)
    log.info(f"{folder / 'statistics.yaml'}: all of this")
    if not train["labelled_pixels"]:
        log.info(f"no weights: {train['list']} has no labelled pixels\n")
        return
    for key, numbers in weights.items():
        by_class = {name: round_digits(number) for name, number in zip(train["classes"], numbers)}
        write_yaml(folder / f"{key}.yaml", f"{WEIGHTS[key][0]}, from {source}: atrous check-data", by_class)
        log.info(f"to train with these weights: loss.class_weights={folder / key}.yaml")
    log.info("")


def write_yaml(path: Path, comment: str, content: Mapping[str, Any]) -> None:
    document = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=1000)
    write_whole(path, f"# {comment}\n{document}".encode(), durable=False)
