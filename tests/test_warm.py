"""A process that was forked warm is, to whoever started it, what a new one would be."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import warm

pytestmark = pytest.mark.skipif(not warm.LINUX, reason="only Linux forks them")
HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def probed(monkeypatch):
    monkeypatch.setattr(warm, "WARM", (*warm.WARM, "probe"))
    monkeypatch.setenv("PYTHONPATH", HERE)


def run(*overrides: str, **how) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "probe", *overrides], capture_output=True, text=True, timeout=60, **how
    )


def both(*overrides: str, **how) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
    with warm.cold():
        cold = run(*overrides, **how)
    return run(*overrides, **how), cold


def last_line(text: str) -> str:
    return text.splitlines()[-1]


@pytest.mark.parametrize("end", ["0", "3", "pipe", "raise", "text", "SIGTERM", "SIGKILL", "SIGINT"])
def test_it_ends_as_a_new_one(end):
    reading, writing = os.pipe()
    result, wanted = both(end, env=os.environ | {"PIPE": str(writing)}, pass_fds=[writing], input="")
    assert result.returncode == wanted.returncode
    assert last_line(result.stderr) == last_line(wanted.stderr)
    if end == "pipe":
        assert os.read(reading, 99) == b"through a pipe" * 2
    for fd in (reading, writing):
        os.close(fd)


def test_it_is_given_what_a_new_one_is_given(tmp_path):
    how = {"cwd": tmp_path, "input": "said to it", "env": os.environ | {"MORE": "1"}, "start_new_session": True}
    result, wanted = both("0", "two words", "ü=1", **how)
    actual, expected = json.loads(result.stdout), json.loads(wanted.stdout)
    assert actual["parent"] == os.getpid()
    assert actual["stdin"] == "said to it"
    assert actual["session"]
    assert actual == expected
    assert not json.loads(run("0", input="").stdout)["leader"]


def test_it_has_the_cores_of_who_starts_it():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert json.loads(run("0", input="").stdout)["cores"] == [min(before)]
    finally:
        os.sched_setaffinity(0, before)


def test_what_it_starts_is_its_own_child():
    result, wanted = both("nested", input="")
    assert last_line(result.stdout) == last_line(wanted.stdout) == "5 True"


def test_it_may_be_watched_and_killed():
    with subprocess.Popen(
        [sys.executable, "-m", "probe", "0"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        assert process.poll() is None  # it waits for its input
        process.kill()
        assert process.wait(timeout=30) == -signal.SIGKILL


def test_what_a_library_made_when_it_was_imported_is_there_for_all_of_them():
    code = "import os; from wandb.sdk.data_types._private import MEDIA_TMP; print(os.path.isdir(MEDIA_TMP.name))"
    for _ in range(2):  # the first one's end leaves it
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"
