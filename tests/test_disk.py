import errno
import os
import subprocess
import sys

import pytest

from atrous import disk
from atrous.disk import append_lines, replacing, write_whole, writing


@pytest.fixture(autouse=True)
def another_process(monkeypatch):
    """Forget which folders have been cleaned."""
    monkeypatch.setattr(disk, "_cleaned", set())


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_lines_are_added_one_after_the_other(tmp_path):
    append_lines(tmp_path / "a", ["one", "two"])
    append_lines(tmp_path / "a", ["three"])
    assert (tmp_path / "a").read_text() == "one\ntwo\nthree\n"


def test_a_torn_line_stays_alone(tmp_path):
    (tmp_path / "a").write_bytes(b"one\ntw")
    append_lines(tmp_path / "a", ["three"])
    assert (tmp_path / "a").read_text() == "one\ntw\nthree\n"


def test_two_processes_that_write_one_file_do_not_mix_their_parts(tmp_path):
    """The other one writes all of the file while this one is half through."""
    other = "import sys, pathlib, atrous.disk as d; d.write_whole(pathlib.Path(sys.argv[1]), b'other')"
    with replacing(tmp_path / "a") as part, open(part, "wb") as file:
        file.write(b"one half, ")
        file.flush()
        subprocess.run([sys.executable, "-c", other, str(tmp_path / "a")], check=True)
        assert (tmp_path / "a").read_bytes() == b"other"
        file.write(b"the other")
    assert (tmp_path / "a").read_bytes() == b"one half, the other"
    assert os.listdir(tmp_path) == ["a"]


def test_parts_of_killed_processes_are_removed_and_those_of_others_are_not(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    stale, fresh, running, foreign = (
        tmp_path / name
        for name in (f"a.{gone.stdout.strip()}.part", f"b.{gone.stdout.strip()}.part", "c.1.part", "d.part")
    )
    for path in (stale, fresh, running, foreign):
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    os.utime(fresh)  # another machine's, perhaps
    write_whole(tmp_path / "e", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([fresh.name, running.name, foreign.name, "e"])


def at_once(path):
    write_whole(path, b"new")


def by_another_program(path):
    with replacing(path) as part:
        part.write_bytes(b"new")


def in_pieces(path):
    with replacing(path) as part, writing(part) as file:
        file.write(b"new")
        full()


@pytest.mark.parametrize("write", [at_once, by_another_program, in_pieces])
def test_a_full_disk_is_reported_by_the_files_own_name_and_leaves_the_old_file(write, tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ValueError, match=rf"^could not write {path} \(No space left on device\): free some space"):
        write(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_an_error_of_another_file_passes_through_while_a_file_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), writing(tmp_path / "a"):
        (tmp_path / "nowhere").read_bytes()
