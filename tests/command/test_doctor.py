import re
from importlib import metadata

import pytest
import torch
from packaging.specifiers import SpecifierSet

from atrous.__main__ import main
from atrous.command import doctor
from atrous.command.doctor import compare_version, examine_dataset, read_lock


def examine(capsys, *overrides):
    try:
        code: object = main(["doctor", *overrides])
    except SystemExit as error:
        code = error.code
    return code, capsys.readouterr().out


def test_it_prints_what_a_bug_report_needs(tmp_path, capsys):
    code, text = examine(capsys, f"out={tmp_path / 'doctor.txt'}", f"runs={tmp_path}")
    assert (tmp_path / "doctor.txt").read_text() == text
    assert code == int("looks wrong\n" in text.replace("nothing looks wrong", ""))
    for fact in ("atrous", "commit", "Python", torch.__version__, "cores", "/dev/shm", "open files", "login", "voc"):
        assert fact in text


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("LEAST_DISK", 1e18, "run_dir=… on another disk"),
        ("LEAST_SHM", 1e18, "docker run --shm-size=8g"),
        ("LEAST_OPEN", 2**40, "ulimit -n 4096"),
    ],
)
def test_a_problem_comes_with_a_cure_and_exit_code_1(name, value, cure, monkeypatch, capsys):
    monkeypatch.setattr(doctor, name, value)
    code, text = examine(capsys)
    assert code == 1
    assert cure in text.partition("\nlooks wrong\n")[2]


def test_a_version_that_is_not_the_locks_looks_wrong(tmp_path, monkeypatch, capsys):
    (tmp_path / "requirements.lock").write_text(
        "numpy==0.1 \\\n    --hash=sha256:00\npillow==1.0 ; python_version < '3'\n"
    )
    assert read_lock(tmp_path / "requirements.lock") == {"numpy": "==0.1", "pillow": "==1.0"}
    monkeypatch.setattr(doctor, "CLONE", tmp_path)
    code, text = examine(capsys)
    assert code == 1
    assert re.search(r"compared with +requirements\.lock\n", text)
    assert f"numpy is {metadata.version('numpy')}, requirements.lock says ==0.1: make setup installs that" in text


def test_without_a_lock_the_packages_own_requirements_count(tmp_path, monkeypatch, capsys):
    lines = ["numpy<0.1", "torch>=1", "nowhere-to-be-had>=2", "old; python_version < '3'", "more; extra == 'demo'"]
    monkeypatch.setattr(doctor, "CLONE", tmp_path)
    monkeypatch.setattr(metadata, "requires", {"atrous": lines}.get)
    code, text = examine(capsys)
    assert code == 1
    assert re.search(r"compared with +atrous's requirements\n", text)
    wrong = text.partition("\nlooks wrong\n")[2]
    assert f"numpy is {metadata.version('numpy')}, atrous's requirements say <0.1: pip install 'numpy<0.1'" in wrong
    assert "nowhere-to-be-had is not installed: pip install 'nowhere-to-be-had>=2'" in wrong
    assert not {"torch", "old", "more"} & {line.split()[0] for line in wrong.splitlines()}


def test_a_package_with_a_line_for_each_python_is_not_judged(tmp_path):
    (tmp_path / "lock").write_text("a==1 ; python_version < '3'\na==2 ; python_version >= '3'\nb_c==3\n")
    assert read_lock(tmp_path / "lock") == {"b-c": "==3"}


def test_a_build_for_another_device_is_the_same_version():
    assert compare_version("2.13.0+cu128", SpecifierSet("==2.13.0")) == "2.13.0+cu128"
    assert compare_version("2.12.0", SpecifierSet("==2.13.0")) == "2.12.0 (wanted: ==2.13.0)"


def test_lists_are_compared_with_the_published_ones(tmp_path):
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000032\n2007_000039\n")
    (lists / "val.txt").write_text("2007_000033\n")
    node = {"_target_": "atrous.data.voc.VOC", "root": str(tmp_path), "train": "train", "val": "val"}
    fact, wrong = examine_dataset(node)
    assert "train 2 (NOT as published)" in fact
    assert len(wrong) == 2
    assert "of 1,464 pictures" in wrong[0]


def test_a_missing_dataset_is_no_problem(tmp_path):
    assert examine_dataset({"_target_": "atrous.data.voc.VOC", "root": str(tmp_path / "no")})[1] == []
