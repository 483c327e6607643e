"""`atrous prepare` as a user types it."""

import pytest
from miniature import ARCHIVES

from atrous.__main__ import main


def run_prepare(capsys, *overrides: str) -> tuple[int, str, str]:
    code = main(["prepare", *overrides])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_from_archives_to_a_dataset_and_again(tmp_path, capsys):
    ARCHIVES["voc"](tmp_path / "archives")
    overrides = ["data=voc", f"root={tmp_path / 'root'}", f"archives={tmp_path / 'archives'}", "checksum=false"]
    code, out, _ = run_prepare(capsys, *overrides)
    assert code == 0
    for line in ("VOC 2012: 14 files", "SBD: 4 files", "labels: 7 made", "lists: trainaug 5, trainvalaug 7"):
        assert line in out
    assert "trainaug: 5 pictures, 10,582 are published" in out
    assert "make check-data DATASET=voc" in out
    for path in (tmp_path / "archives").iterdir():
        path.unlink()
    code, out, _ = run_prepare(capsys, *overrides)
    assert code == 0
    assert out.count("done before") == 3
    (tmp_path / "root/SegmentationClassAug/2008_000008.png").unlink()
    code, out, _ = run_prepare(capsys, *overrides, "again=true")
    assert code == 0
    assert "SBD: done before, and its archive is gone" in out
    assert "labels: 1 made, 6 were there" in out


def test_archives_that_are_not_the_published_ones_are_refused(tmp_path, capsys):
    ARCHIVES["voc"](tmp_path / "archives")
    code, _, err = run_prepare(capsys, "data=voc", f"root={tmp_path / 'root'}", f"archives={tmp_path / 'archives'}")
    assert code == 2
    assert "VOCtrainval_11-May-2012.tar is incomplete, or not the published archive" in err
    assert "checksum=false" in err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=voc"], "there is no VOCtrainval_11-May-2012.tar in"),
        (["data=cityscapes"], "which need a login"),
        (["data=folder"], "dataset.yaml"),
        (["data=vco"], "did you mean data=voc"),
        (["data=voc", "donwload=true"], "did you mean download"),
        (["data=voc", "root=/proc/nowhere"], "`root=/proc/nowhere` can't be made a folder"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(overrides, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_prepare(capsys, *overrides)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) <= 6
    assert "Traceback" not in err


def test_what_needs_no_preparing_says_so(capsys):
    code, out, _ = run_prepare(capsys, "data=shapes")
    assert code == 0
    assert "there is nothing to prepare" in out


def test_a_missing_source_is_not_a_missing_archive(tmp_path, capsys):
    ARCHIVES["voc"](tmp_path / "archives")
    overrides = ["data=voc", f"root={tmp_path / 'root'}", f"archives={tmp_path / 'archives'}", "checksum=false"]
    assert run_prepare(capsys, *overrides)[0] == 0
    for path in (tmp_path / "archives").iterdir():
        path.unlink()
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        (tmp_path / "root" / folder / "2008_000001.png").unlink()
    code, out, err = run_prepare(capsys, *overrides, "again=true")
    assert code == 2
    assert (
        "SegmentationClass/2008_000001.png is missing, from which SegmentationClassAug/2008_000001.png is made" in err
    )
    assert "it is ready" not in out
