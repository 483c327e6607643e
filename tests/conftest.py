import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported: miniatures gain nothing from threads, and lose much where cores are busy.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("WANDB_API_KEY", None)
gc.set_threshold(100_000, 20, 50)  # torch's and Lightning's million objects need not be looked through every second


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process for a few tests, which then begin at once; for all of them one a core, but no army of torches."""
    few = config.option.keyword or any(arg.partition("::")[0].endswith(".py") for arg in config.args)
    return 0 if few else min(os.cpu_count() or 1, 4)


LONGEST = (
    "test_launch.py",
    "test_predict.py",
    "test_sweeps.py",
    "test_experiments.py",
    "test_evaluate.py",
    "test_report.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file stays on one worker, with its fixtures: those that take longest begin, so that both end together."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to try things on, trained once, for reading only. It predicts all classes, and was scored with and without
    a CRF, one picture at a time."""
    from running import SCRAMBLED, run

    folder = tmp_path_factory.mktemp("trained")
    run(folder, "crf=shapes", "val_batch=1", SCRAMBLED)
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="session", autouse=True)
def warm_starts() -> Iterator[None]:
    """`python -m atrous …` comes from a process that has imported everything."""
    import warm

    warm.install()
    yield
    warm.close()
