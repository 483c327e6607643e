"""Audit a dataset before it is trained on: its lists, its files, and each picture with its labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atrous.batch import Sample
from atrous.data.archive import Report
from atrous.data.files import Files, Published, ids_md5, missing_files
from atrous.data.pairs import Pair, Pairs, Reader
from atrous.data.parallel import spread
from atrous.data.statistics import LabelStatistics, count_pixels

SHOWN = 5
"""Problems of a kind that are named."""

KINDS = {
    "can't be read": "files that can't be read",
    "differ in size": "pictures and labels of different sizes",
    "holds the": "labels with values outside the classes",
    "is no label": "files that are no labels",
}
"""{part of an error's message when a pair is read: the kind of problem}"""


@dataclass
class ProblemCount:
    count: int = 0
    first: list[str] = field(default_factory=list)


class Problems(dict[str, ProblemCount]):
    """{kind: how many, and the first few}: small, however much is wrong. Paths in messages are given below `root`."""

    def __init__(self, root: Path | None):
        super().__init__()
        self.root = root

    def add(self, kind: str, message: str) -> None:
        problem = self.setdefault(kind, ProblemCount())
        problem.count += 1
        if problem.count <= SHOWN:
            problem.first.append(message if self.root is None else message.replace(f"{self.root}/", ""))


@dataclass(frozen=True)
class ListFacts:
    pictures: int
    md5: str  # of the sorted ids, as `Published.md5`
    published: Published | None


class Audit:
    """An audit of a dataset. Its lists are compared at once; `read` then reads each picture, and counts its labels.

    limit: at most so many pictures of each list, at equal distances. subset: a part of the published lists is enough.
    """

    def __init__(self, dataset: Any, limit: int | None = None, subset: bool = False):
        self.dataset = dataset
        self.problems = Problems(getattr(dataset, "root", None))
        self.lists: dict[str, ListFacts] = {}  # empty for a dataset without files
        self.files = self.missing = 0
        self.statistics = {role: LabelStatistics(len(dataset.labels)) for role in ("train", "val")}
        if isinstance(dataset, Files):
            lists = read_lists(dataset, self.problems)
            self.lists = compare_lists(dataset, lists, subset, self.problems)
            self._plan = self._plan_files(lists, limit)
        else:
            self._plan = plan_samples(dataset, limit)

    @property
    def pictures(self) -> int:
        """How many pictures `read` reads."""
        return len(self._plan.jobs)

    def _plan_files(self, lists: Mapping[str, Sequence[Pair]], limit: int | None) -> ReadingPlan:
        """Plan to read the pairs whose files exist. A job is one picture's pairs: it may have labels in two folders."""
        paths = dict.fromkeys(path for pairs in lists.values() for pair in pairs for path in (pair.image, pair.label))
        missing = dict.fromkeys(missing_files(paths))
        for path in missing:
            self.problems.add("files that are missing", str(path))
        self.files, self.missing = len(paths), len(missing)
        complete = {
            name: [pair for pair in spaced(pairs, limit) if pair.image not in missing and pair.label not in missing]
            for name, pairs in lists.items()
        }
        jobs: dict[Path, list[Pair]] = {}
        for pair in dict.fromkeys(pair for pairs in complete.values() for pair in pairs):
            jobs.setdefault(pair.image, []).append(pair)
        members: dict[str, set[Hashable]] = {
            role: {pair for part in split.split("+") for pair in complete.get(part, ())}
            for role, split in (("train", self.dataset.train), ("val", self.dataset.val))
        }
        read_image, read_label = self.dataset.readers()
        classes = len(self.dataset.labels)
        check = partial(check_pairs, classes=classes, read_image=read_image, read_label=read_label)
        return ReadingPlan(list(jobs.values()), check, members)

    def read(self, workers: int | None, report: Report) -> None:
        """Read each picture with its labels once; add problems, and the statistics of train and of val."""
        plan = self._plan
        results: Any = spread(plan.check, plan.jobs, workers)
        with closing(results):  # an interruption ends it at once
            for done, (job, checks) in enumerate(zip(plan.jobs, results), 1):
                for key, check in zip(job, checks):
                    if check.kind:
                        self.problems.add(check.kind, check.message)
                    for role, members in plan.members.items():
                        if check.counts is not None and key in members:
                            self.statistics[role].add(check.counts)
                report(done, len(plan.jobs))


# ---- lists ----------------------------------------------------------------------------------------------------------
def read_lists(dataset: Files, problems: Problems) -> dict[str, list[Pair]]:
    """The lists of train and val, and all published lists that exist."""
    wanted = list(dict.fromkeys([*dataset.train.split("+"), *dataset.val.split("+")]))
    lists: dict[str, list[Pair]] = {}
    errors: dict[str, Exception] = {}
    for name in dict.fromkeys([*wanted, *dataset.published]):
        try:
            lists[name] = dataset.list_pairs(name)
        except (ValueError, OSError) as error:
            if name in wanted or not isinstance(error, FileNotFoundError):
                errors[name] = error
    if not lists and errors:
        raise next(iter(errors.values()))  # the dataset is missing
    for name, reason in errors.items():
        problems.add(f"list {name}", str(reason))
    return lists


def compare_lists(
    dataset: Files, lists: Mapping[str, Sequence[Pair]], subset: bool, problems: Problems
) -> dict[str, ListFacts]:
    """Compare the lists with the published ones, and val with train."""
    facts: dict[str, ListFacts] = {}
    for name, pairs in lists.items():
        ids = Counter(pair.name for pair in pairs)
        for repeated in (i for i, count in ids.items() if count > 1):
            problems.add(f"named more than once in {name}", repeated)
        published = dataset.published.get(name)
        facts[name] = ListFacts(len(pairs), ids_md5(ids.elements()), published)
        difference = None if published is None or subset else published.difference(list(ids.elements()))
        if difference:
            problems.add(f"{name} is not the published list", f"{difference}; if you mean a part of it: subset=true")
        if not pairs:
            problems.add("lists that name nothing", name)
    find_overlap(dataset, lists, problems)
    return facts


def find_overlap(dataset: Files, lists: Mapping[str, Sequence[Pair]], problems: Problems) -> None:
    train, val = (
        dict.fromkeys(pair.name for part in split.split("+") for pair in lists.get(part, ()))
        for split in (dataset.train, dataset.val)
    )
    for name in val:
        if name in train:
            problems.add(f"pictures of {dataset.val} that are in {dataset.train} too", name)


# ---- every picture --------------------------------------------------------------------------------------------------
class LabelCheck(NamedTuple):
    counts: np.ndarray | None  # (C + 1,) pixels of each class, then of void; None where there is a problem
    kind: str = ""
    message: str = ""


class ReadingPlan(NamedTuple):
    jobs: Sequence[Any]  # each a list of keys
    check: Callable[[Any], list[LabelCheck]]  # of a job: a check for each of its keys
    members: Mapping[str, set[Hashable]]  # the keys of train and of val


def plan_samples(dataset: Any, limit: int | None) -> ReadingPlan:
    """Plan to read a dataset without files: a key is the role of a split and the index of a sample."""
    splits: dict[str, Sequence[Sample]] = {role: dataset.split(getattr(dataset, role)) for role in ("train", "val")}
    keys = {role: [(role, k) for k in spaced(range(len(samples)), limit)] for role, samples in splits.items()}
    members: dict[str, set[Hashable]] = {role: set(some) for role, some in keys.items()}
    check = partial(check_samples, classes=len(dataset.labels), splits=splits)
    return ReadingPlan([[key] for some in keys.values() for key in some], check, members)


def spaced(items: Sequence[Any], limit: int | None) -> Sequence[Any]:
    """At most `limit` of the items, from the first on at equal distances."""
    return items if limit is None or len(items) <= limit else [items[k * len(items) // limit] for k in range(limit)]


def check_pairs(job: Sequence[Pair], classes: int, read_image: Reader, read_label: Reader) -> list[LabelCheck]:
    """Read one picture with each of its labels."""
    pairs = Pairs(job, lru_cache(maxsize=1)(read_image), read_label)  # decodes the picture once for all labels
    checks: list[LabelCheck] = []
    for index in range(len(job)):
        try:
            checks.append(LabelCheck(count_pixels(pairs[index].label, classes)))
        except (ValueError, OSError) as error:
            message = str(error)
            known = any(check.message == message for check in checks)  # a problem of the picture counts once
            kind = next((kind for part, kind in KINDS.items() if part in message), "files with other problems")
            checks.append(LabelCheck(None, "" if known else kind, message))
    return checks


def check_samples(
    job: Sequence[tuple[str, int]], classes: int, splits: Mapping[str, Sequence[Sample]]
) -> list[LabelCheck]:
    return [LabelCheck(count_pixels(splits[role][index].label, classes)) for role, index in job]
