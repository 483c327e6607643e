import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from running import Interrupted, run

from atrous.logger import MetricsCSV, read_metrics, wandb


def test_a_row_holds_what_was_taken_at_its_iteration(tmp_path):
    log = MetricsCSV(str(tmp_path))
    log.log_metrics({"train/loss": 2.0}, 10)
    log.log_metrics({"train/loss": 1.0}, 20)
    log.log_metrics({"val/miou": 0.5, "epoch": 0}, 20)
    assert read_metrics(tmp_path / "metrics.csv") == [
        {"step": 10, "train/loss": 2.0},
        {"step": 20, "train/loss": 1.0, "val/miou": 0.5},
    ]
    with open(tmp_path / "metrics.csv") as file:
        assert next(csv.reader(file)) == ["step", "train/loss", "val/miou"]


def test_a_resumed_run_takes_back_the_rows_it_writes_again(tmp_path):
    first = MetricsCSV(str(tmp_path))
    for step in (10, 20, 30):
        first.log_metrics({"train/loss": step}, step)
    MetricsCSV(str(tmp_path)).log_metrics({"train/loss": 0.5}, 20)
    assert [row["train/loss"] for row in read_metrics(tmp_path / "metrics.csv")] == [10, 0.5]


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="auto, online, offline or disabled"):
        wandb(str(tmp_path), mode="of")


def test_without_a_login_it_is_offline_and_the_id_is_there_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    logger = wandb(str(tmp_path))
    assert logger._wandb_init["mode"] == "offline"
    assert logger._wandb_init["id"] == (tmp_path / "wandb_id").read_text()
    assert wandb(str(tmp_path))._wandb_init["id"] == logger._wandb_init["id"]


def read_back(folder: Path) -> tuple[list[dict], dict]:
    """The records and the summary of an offline run, as W&B's own reader gives them."""
    (run_folder,) = folder.glob("wandb/offline-run-*")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
    records = subprocess.run([*command, str(run_folder)], capture_output=True, text=True, check=True).stdout
    summary = subprocess.run(
        [*command, "--summary", str(run_folder)], capture_output=True, text=True, check=True
    ).stdout
    return [json.loads(line) for line in records.splitlines()], json.loads(summary)


def test_what_goes_to_wandb_can_be_read_back(tmp_path):
    pictures = "callback.pictures={_target_:atrous.callback.pictures.Pictures,count:2}"
    over = (pictures, "crf=v2", "crf.validate=true", "callback.progress.every=6")
    result = run(tmp_path, "logger=wandb", "logger.wandb.tags=[test]", *over)
    records, told = read_back(tmp_path)
    assert told["run_id"] == (tmp_path / "wandb_id").read_text()
    assert (told["state"], told["exit_code"], told["project"]) == ("finished", 0, "atrous")
    assert told["config"]["optim"]["lr"] == result_config(tmp_path)["optim"]["lr"]

    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    steps = [row["trainer/global_step"] for row in rows]
    assert steps == sorted(steps)
    (last,) = (row for row in rows if "val/miou" in row and row["trainer/global_step"] == 12)
    assert last["val/miou"] == pytest.approx(result["scores"]["mean_iou"])
    assert last["val/miou_crf"] == pytest.approx(result["scores_crf"]["mean_iou"])
    assert last["val/iou/ground"] == pytest.approx(result["scores"]["iou"]["ground"])
    measured = {"train/loss", "lr/weight", "lr/bias", "lr/classifier_weight", "lr/classifier_bias"}
    measured |= {"time/images_per_s", "time/data_share", "memory/peak_gb"}
    assert any(measured <= row.keys() for row in rows)

    drawn = [row for row in rows if row.get("val/pictures._type") == "images/separated"]
    assert [row["trainer/global_step"] for row in drawn] == [6, 12]
    assert drawn[0]["val/pictures.count"] == 2
    assert all(masks.keys() == {"truth", "prediction", "crf"} for masks in drawn[0]["val/pictures.all_masks"])
    assert told["summary"]["miou"] == pytest.approx(result["scores"]["mean_iou"])
    assert told["summary"]["confusion_table"]["nrows"] == 8 * 8


def result_config(folder: Path) -> dict:
    return OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))  # type: ignore[return-value]


def test_a_resumed_run_goes_on_in_its_own_wandb_run(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, "logger=wandb", "+callback.die={_target_:running.Die,at:7}")
    first = (tmp_path / "wandb_id").read_text()
    run(tmp_path, "logger=wandb")
    assert (tmp_path / "wandb_id").read_text() == first
    assert {path.name.split("-")[3] for path in tmp_path.glob("wandb/offline-run-*")} == {first}
