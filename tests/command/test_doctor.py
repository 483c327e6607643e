import shutil

import pytest
import torch

from atrous.__main__ import main
from atrous.command import doctor
from atrous.command.doctor import dataset, locked


def examined(capsys, *words):
    try:
        code: object = main(["doctor", *words])
    except SystemExit as error:
        code = error.code
    return code, capsys.readouterr().out


def test_it_tells_what_a_bug_report_needs(tmp_path, capsys):
    code, told = examined(capsys, f"out={tmp_path / 'doctor.txt'}", f"runs={tmp_path}")
    assert (tmp_path / "doctor.txt").read_text() == told
    assert code == int("looks wrong\n" in told.replace("nothing looks wrong", ""))
    for what in ("atrous", "commit", "Python", torch.__version__, "cores", "/dev/shm", "open files", "login", "voc"):
        assert what in told


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("LEAST_DISK", 1e18, "run_dir=… on another disk"),
        ("LEAST_SHM", 1e18, "docker run --shm-size=8g"),
        ("LEAST_OPEN", 2**40, "ulimit -n 4096"),
    ],
)
def test_what_looks_wrong_has_a_cure_and_exit_code_1(name, value, cure, monkeypatch, capsys):
    monkeypatch.setattr(doctor, name, value)
    code, told = examined(capsys)
    assert code == 1
    assert cure in told.partition("\nlooks wrong\n")[2]


def test_a_version_that_is_not_the_locks_looks_wrong(tmp_path, monkeypatch, capsys):
    (tmp_path / "requirements.lock").write_text(
        "numpy==0.1 \\\n    --hash=sha256:00\npillow==1.0 ; python_version < '3'\n"
    )
    assert locked(tmp_path / "requirements.lock") == {"numpy": "0.1", "pillow": "1.0"}
    monkeypatch.setattr(doctor, "CONF", shutil.copytree(doctor.CONF / "data", tmp_path / "conf" / "data").parent)
    code, told = examined(capsys)
    assert code == 1
    assert ", the lock says 0.1: make setup installs that" in told


def test_a_package_with_a_line_for_each_python_is_not_judged(tmp_path):
    (tmp_path / "lock").write_text("a==1 ; python_version < '3'\na==2 ; python_version >= '3'\nb_c==3\n")
    assert locked(tmp_path / "lock") == {"b-c": "3"}


def test_lists_are_measured_by_the_published_ones(tmp_path):
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000032\n2007_000039\n")
    (lists / "val.txt").write_text("2007_000033\n")
    node = {"_target_": "atrous.data.voc.VOC", "root": str(tmp_path), "train": "train", "val": "val"}
    told, wrong = dataset(node)
    assert "train 2 (NOT as published)" in told
    assert len(wrong) == 2
    assert "of 1,464 pictures" in wrong[0]


def test_a_dataset_that_is_not_there_is_no_fault(tmp_path):
    assert dataset({"_target_": "atrous.data.voc.VOC", "root": str(tmp_path / "no")})[1] == []
