"""`atrous check-data`: all of a dataset looked at before any training, its statistics, and class weights from them."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import yaml
from omegaconf import DictConfig

from atrous.batch import Sample
from atrous.config.build import build_files
from atrous.console import bar, duration, text
from atrous.data.files import Files, Published, ids_md5, missing
from atrous.data.pairs import Pair, Pairs, Reader
from atrous.data.parallel import spread
from atrous.data.statistics import Tally, count, inverse_log, median_frequency
from atrous.disk import make_folder, write_whole

log = logging.getLogger("atrous")

FIRST = 5
"""So many of a kind are named."""

WIDTH = 100
"""Of the report's lines."""

KINDS = {
    "can't be read": "files that can't be read",
    "differ in size": "pictures and labels of different sizes",
    "holds the": "labels with values outside the classes",
    "is no label": "files that are no labels",
}
"""Words in what reading a pair complains of -> what it is called here."""

WEIGHTS: dict[str, tuple[str, Callable[[Tally], np.ndarray]]] = {
    "median_frequency": ("Median frequency balancing (Eigen and Fergus, SegNet)", median_frequency),
    "inverse_log": ("1 / ln(1.02 + share of the labelled pixels) (ENet)", inverse_log),
}
"""The file's name -> what it holds, and what makes it."""


def check_data(cfg: DictConfig) -> dict[str, Any]:
    """Prints the report and writes it with the class weights; complains at the end where anything is wrong."""
    limit, workers = at_least(1, "limit", cfg.limit), at_least(0, "workers", cfg.workers)
    dataset = build_files(cfg.data)
    name = getattr(dataset, "name", type(dataset).__name__.lower())
    problems = Problems(getattr(dataset, "root", None))

    if isinstance(dataset, Files):
        log.info(f"{name} at {dataset.root.absolute()}\n")
        lists = read_lists(dataset, problems)
        told = compare(dataset, lists, cfg.subset, problems)
        work = of_files(dataset, lists, limit, problems)
    else:
        log.info(f"{name}: its pictures are drawn on the fly, there are no files\n")
        told, work = {}, of_samples(dataset, limit)
    folder = make_folder(Path(f"runs/data/{name}" if cfg.out is None else str(cfg.out)).expanduser(), "out")
    tallies = look(work, len(dataset.labels), workers, problems)

    splits = {"train": dataset.train, "val": dataset.val}
    weights = {key: make(tallies["train"]) for key, (_, make) in WEIGHTS.items()}
    log.info(table(dataset.labels.names, splits, tallies, weights))
    found = {
        "dataset": name,
        **({"root": str(dataset.root.absolute())} if isinstance(dataset, Files) else {}),
        **({"limit": limit} if limit else {}),
        "lists": told,
        "problems": {kind: {"count": p.count, "first": p.first} for kind, p in problems.items()},
        "splits": {role: plain(splits[role], tally, dataset.labels.names) for role, tally in tallies.items()},
    }
    save(folder, found, weights)
    if problems:
        log.info(problems.told().rstrip())
        raise ValueError(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}: see above")
    log.info("no problems")
    return found


def at_least(least: int, key: str, value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise ValueError(f"`{key}` must be null or a whole number, {least} or more (got {value!r})")
    return value


# ---- what is wrong --------------------------------------------------------------------------------------------------
@dataclass
class Problem:
    count: int = 0
    first: list[str] = field(default_factory=list)


class Problems(dict[str, Problem]):
    """{kind: how many there are, and the first few}. It stays small, however much is wrong."""

    def __init__(self, root: Path | None):
        super().__init__()
        self.root = root

    def add(self, kind: str, told: str) -> None:
        problem = self.setdefault(kind, Problem())
        problem.count += 1
        if problem.count <= FIRST:
            problem.first.append(told if self.root is None else told.replace(f"{self.root}/", ""))

    def told(self) -> str:
        return "".join(wrapped(line) for kind, problem in self.items() for line in self._lines(kind, problem))

    def _lines(self, kind: str, problem: Problem) -> Iterator[str]:
        if problem.count == 1:
            yield f"problem: {kind}: {problem.first[0]}"
            return
        yield f"problem: {kind}: {problem.count:,}"
        yield from (f"  {told}" for told in problem.first)
        if problem.count > len(problem.first):
            yield f"  … and {problem.count - len(problem.first):,} more"


# ---- lists ----------------------------------------------------------------------------------------------------------
def read_lists(dataset: Files, problems: Problems) -> dict[str, list[Pair]]:
    """Those that make up train and val, and whatever else is published and there."""
    wanted = list(dict.fromkeys([*dataset.train.split("+"), *dataset.val.split("+")]))
    lists: dict[str, list[Pair]] = {}
    errors: dict[str, Exception] = {}
    for name in dict.fromkeys([*wanted, *dataset.published]):
        try:
            lists[name] = dataset.listed(name)
        except (ValueError, OSError) as error:
            if name in wanted or not isinstance(error, FileNotFoundError):
                errors[name] = error
    if not lists and errors:
        raise next(iter(errors.values()))  # it is not there at all
    for name, said in errors.items():
        problems.add(f"list {name}", str(said))
    return lists


def compare(
    dataset: Files, lists: Mapping[str, Sequence[Pair]], subset: bool, problems: Problems
) -> dict[str, dict[str, Any]]:
    """Prints the lists beside the published ones; gives what is known of each."""
    told: dict[str, dict[str, Any]] = {}
    for name, pairs in lists.items():
        ids = Counter(pair.name for pair in pairs)
        for twice in (i for i, times in ids.items() if times > 1):
            problems.add(f"named more than once in {name}", twice)
        told[name] = {"pictures": len(pairs), "md5": ids_md5(ids.elements())}
        published = dataset.published.get(name)
        if published is not None:
            told[name] |= {"published_pictures": published.count, "published_md5": published.md5}
            difference = differs(told[name], published)
            if difference and not subset:
                remedy = "where a part is meant: subset=true"
                problems.add(f"{name} is not the published list", f"{difference}; {remedy}")
        if not pairs:
            problems.add("lists that name nothing", name)
    overlap(dataset, lists, problems)
    log.info(list_table(told))
    return told


def differs(told: Mapping[str, Any], published: Published) -> str | None:
    if told["pictures"] != published.count:
        return f"{told['pictures']:,} pictures, {published.count:,} are published"
    if published.md5 not in (None, told["md5"]):
        return "as many pictures, but others (md5 of the sorted names)"
    return None


def overlap(dataset: Files, lists: Mapping[str, Sequence[Pair]], problems: Problems) -> None:
    train, val = (
        dict.fromkeys(pair.name for part in split.split("+") for pair in lists.get(part, ()))
        for split in (dataset.train, dataset.val)
    )
    for name in val:
        if name in train:
            problems.add(f"pictures of {dataset.val} that are in {dataset.train} too", name)


# ---- every picture --------------------------------------------------------------------------------------------------
class Finding(NamedTuple):
    counts: np.ndarray | None  # the pixels of each class, then of void; None where there is a problem
    kind: str = ""
    told: str = ""


class Work(NamedTuple):
    """Jobs are lists of keys, for which `do` gives as many findings; members: the keys of train and of val."""

    jobs: Sequence[Any]
    do: Callable[[Any], list[Finding]]
    members: Mapping[str, set[Hashable]]


def of_files(dataset: Files, lists: Mapping[str, Sequence[Pair]], limit: int | None, problems: Problems) -> Work:
    """The pairs whose files are there. One job is all pairs of a picture, which may have labels in several folders."""
    files = dict.fromkeys(path for pairs in lists.values() for pair in pairs for path in (pair.image, pair.label))
    gone = dict.fromkeys(missing(files))
    for path in gone:
        problems.add("files that are missing", str(path))
    there = {
        name: [pair for pair in evenly(pairs, limit) if pair.image not in gone and pair.label not in gone]
        for name, pairs in lists.items()
    }
    jobs: dict[Path, list[Pair]] = {}
    for pair in dict.fromkeys(pair for pairs in there.values() for pair in pairs):
        jobs.setdefault(pair.image, []).append(pair)
    members: dict[str, set[Hashable]] = {
        role: {pair for part in split.split("+") for pair in there.get(part, ())}
        for role, split in (("train", dataset.train), ("val", dataset.val))
    }
    log.info(f"{len(files):,} files, {f'{len(gone):,}' if gone else 'none'} missing")
    return Work(list(jobs.values()), OfFiles(len(dataset.labels), *dataset.readers()), members)


def evenly(items: Sequence[Any], limit: int | None) -> Sequence[Any]:
    """At most so many of them, from the first on at equal distances."""
    return items if limit is None or len(items) <= limit else [items[k * len(items) // limit] for k in range(limit)]


class OfFiles:
    def __init__(self, classes: int, read_image: Reader, read_label: Reader):
        self.classes, self.read_image, self.read_label = classes, read_image, read_label

    def __call__(self, job: Sequence[Pair]) -> list[Finding]:
        pairs = Pairs(job, lru_cache(maxsize=1)(self.read_image), self.read_label)  # one decoding for all the labels
        found: list[Finding] = []
        for index in range(len(job)):
            try:
                found.append(Finding(count(pairs[index].label, self.classes)))
            except (ValueError, OSError) as error:
                told = str(error)
                again = any(finding.told == told for finding in found)  # the picture of several labels
                kind = next((name for words, name in KINDS.items() if words in told), "files with other problems")
                found.append(Finding(None, "" if again else kind, told))
        return found


def of_samples(dataset: Any, limit: int | None) -> Work:
    splits: dict[str, Sequence[Sample]] = {role: dataset.split(getattr(dataset, role)) for role in ("train", "val")}
    keys = {role: [(role, k) for k in evenly(range(len(samples)), limit)] for role, samples in splits.items()}
    members: dict[str, set[Hashable]] = {role: set(some) for role, some in keys.items()}
    return Work([[key] for some in keys.values() for key in some], OfSamples(len(dataset.labels), splits), members)


class OfSamples:
    def __init__(self, classes: int, splits: Mapping[str, Sequence[Sample]]):
        self.classes, self.splits = classes, splits

    def __call__(self, job: Sequence[tuple[str, int]]) -> list[Finding]:
        return [Finding(count(self.splits[role][index].label, self.classes)) for role, index in job]


def look(work: Work, classes: int, workers: int | None, problems: Problems) -> dict[str, Tally]:
    """Reads all pictures with their labels, once each; gives what the labels of train and val hold."""
    tallies = {role: Tally(classes) for role in work.members}
    began = time.monotonic()
    results: Any = spread(work.do, work.jobs, workers)
    with bar(f"looking at {len(work.jobs):,} pictures") as report, closing(results):  # an interruption ends it at once
        for done, (job, found) in enumerate(zip(work.jobs, results), 1):
            for key, finding in zip(job, found):
                if finding.kind:
                    problems.add(finding.kind, finding.told)
                for role, members in work.members.items():
                    if finding.counts is not None and key in members:
                        tallies[role].add(finding.counts)
            report(done, len(work.jobs))
    took = time.monotonic() - began
    log.info(f"{len(work.jobs):,} pictures looked at in {f'{took:.1f} s' if took < 60 else duration(took)}\n")
    return tallies


# ---- telling --------------------------------------------------------------------------------------------------------
def list_table(told: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, facts in told.items():
        known, md5 = facts.get("published_pictures"), facts.get("published_md5")
        beside = "" if md5 is None else "as published" if md5 == facts["md5"] else f"published: {md5[:12]}…"
        rows.append(
            [name, f"{facts['pictures']:,}", "" if known is None else f"{known:,}", f"{facts['md5'][:12]}…", beside]
        )
    return drawn(["list", "pictures", "published", "<md5 of sorted ids", "<"], rows)


def table(
    names: Sequence[str], splits: Mapping[str, str], tallies: Mapping[str, Tally], weights: Mapping[str, np.ndarray]
) -> str:
    """The classes with their weights, void, and in words which classes never occur."""
    train, val = tallies["train"], tallies["val"]
    head = ["class", "pixels", "%", "pictures", f"% in {splits['val']}", "median freq", "inverse log"]
    rows = [
        [name, f"{train.pixels[c]:,}", percent(share), f"{train.pictures[c]:,}", percent(other)]
        + [f"{weight[c]:.4f}" if weight[c] else "0" for weight in weights.values()]
        for c, (name, share, other) in enumerate(zip(names, train.shares(), val.shares()))
    ]
    void = ["void", f"{train.pixels[-1]:,}", percent(train.void), f"{train.pictures[-1]:,}", percent(val.void), "", ""]
    text = f"{splits['train']}, {train.seen:,} pictures, beside {splits['val']}, {val.seen:,}\n"
    text += drawn(head, [*rows, void], last_apart=True)
    text += "%: of the labelled pixels; void: of all pixels\n"
    for role, split in splits.items():
        never = tallies[role].never(names)
        if never and tallies[role].seen:
            text += wrapped(f"never in {split}{' (weight 0)' if role == 'train' else ''}: {', '.join(never)}")
    return text


def wrapped(line: str) -> str:
    """As lines of at most WIDTH, but for what is longer by itself: a path stays whole."""
    own = " " * (len(line) - len(line.lstrip()))
    return fill(line, WIDTH, subsequent_indent=f"{own}  ", break_long_words=False, break_on_hyphens=False) + "\n"


def percent(share: float) -> str:
    return "0" if not share else f"{100 * share:.2f}" if share >= 1e-4 else f"{100 * share:.1g}"


def drawn(head: Sequence[str], rows: Sequence[Sequence[str]], last_apart: bool = False) -> str:
    """The first column is of words, and those whose head begins with <."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for index, title in enumerate(head):
        words = index == 0 or title.startswith("<")
        shown.add_column(title.lstrip("<"), justify="left" if words else "right", no_wrap=True)
    for index, row in enumerate(rows):
        shown.add_row(*row, end_section=last_apart and index == len(rows) - 2)
    return "".join(f"{line.rstrip()}\n" for line in text(shown, WIDTH).splitlines())


# ---- writing --------------------------------------------------------------------------------------------------------
def plain(split: str, tally: Tally, names: Sequence[str]) -> dict[str, Any]:
    classes = {
        name: {"pixels": int(tally.pixels[c]), "share": rounded(share), "pictures": int(tally.pictures[c])}
        for c, (name, share) in enumerate(zip(names, tally.shares()))
    }
    void = {"pixels": int(tally.pixels[-1]), "share": rounded(tally.void), "pictures": int(tally.pictures[-1])}
    return {"list": split, "pictures": tally.seen, "labelled_pixels": tally.labelled, "void": void, "classes": classes}


def rounded(number: float) -> float:
    return float(f"{number:.6g}")


def save(folder: Path, found: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    """statistics.yaml, and a file for each kind of weights where there are any."""
    train = found["splits"]["train"]
    source = f"{train['pictures']} pictures of {train['list']}, {found['dataset']}"
    write_yaml(folder / "statistics.yaml", "What atrous check-data found", found)
    log.info(f"{folder / 'statistics.yaml'}: all of this")
    if not train["labelled_pixels"]:
        log.info(f"no weights: {train['list']} has no labelled pixels\n")
        return
    for key, numbers in weights.items():
        told = {name: rounded(number) for name, number in zip(train["classes"], numbers)}
        write_yaml(folder / f"{key}.yaml", f"{WEIGHTS[key][0]}, from {source}: atrous check-data", told)
        log.info(f"to train with these weights: loss.class_weights={folder / key}.yaml")
    log.info("")


def write_yaml(path: Path, comment: str, told: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(dict(told), sort_keys=False, allow_unicode=True, width=1000)
    write_whole(path, f"# {comment}\n{text}".encode(), durable=False)
