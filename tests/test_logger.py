import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from running import MINIATURE, Interrupted, atrous, configure, run
from wandb_server import wandb_server

from atrous.callback.summary import summary, tags
from atrous.config.place import SWEEPS
from atrous.config.suggest import problem_with
from atrous.disk import read_metrics
from atrous.logger import MetricsCSV, wandb


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
    records, inspected = read_back(tmp_path)
    assert inspected["run_id"] == (tmp_path / "wandb_id").read_text()
    assert (inspected["state"], inspected["exit_code"], inspected["project"]) == ("finished", 0, "atrous")
    assert inspected["config"]["optim"]["lr"] == result_config(tmp_path)["optim"]["lr"]

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
    assert inspected["summary"]["miou"] == pytest.approx(result["scores"]["mean_iou"])
    assert inspected["summary"]["confusion_table"]["nrows"] == 8 * 8


def result_config(folder: Path) -> dict:
    return OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))  # type: ignore[return-value]


def test_a_resumed_run_goes_on_in_its_own_wandb_run(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, "logger=wandb", "+callback.die={_target_:running.Die,at:7}")
    first = (tmp_path / "wandb_id").read_text()
    run(tmp_path, "logger=wandb")
    assert (tmp_path / "wandb_id").read_text() == first
    assert {path.name.split("-")[3] for path in tmp_path.glob("wandb/offline-run-*")} == {first}


# ---- many runs in W&B -----------------------------------------------------------------------------------------------
def test_a_tag_is_cut_to_what_wandb_takes():
    assert tags(("mine", "x" * 100), ["v2 table 3", None, "shapes", "mine"]) == (
        "mine",
        "x" * 64,
        "v2 table 3",
        "shapes",
    )


def test_the_summary_has_differences_only_from_what_is_comparable():
    scores = {"mean_iou": 0.7, "iou": {"disc": 0.5, "ring": None}}
    result = {"scores": scores, "scores_crf": None, "parameters": 7, "paper": {"miou": 68.96, "miou_crf": 71.57}}
    expected = {"parameters": 7, "miou": 0.7, "published": 0.6896, "published_crf": 0.7157, "iou/disc": 0.5}
    assert summary(result) == pytest.approx(expected | {"difference": 0.0104})
    result["paper"]["comparable"] = False  # type: ignore[index]
    assert summary(result) == pytest.approx(expected)
    assert summary(result | {"paper": None}) == pytest.approx({"parameters": 7, "miou": 0.7, "iou/disc": 0.5})


@pytest.mark.slow
def test_a_run_of_a_sweep_arrives_online_with_its_group_tags_config_summary_and_history(tmp_path):
    arguments = [word for word in MINIATURE if not word.startswith(("logger", "experiment", "crf"))]
    arguments += ["experiment=v2_aspp_l", "small=shapes", "crf=null", "logger=wandb", f"run_dir='{tmp_path / 'run'}'"]
    with wandb_server() as server:
        done = atrous("train", *arguments, env=server.environment | {"WANDB_RUN_GROUP": "v2_table3/small=shapes"})
        assert done.returncode == 0, done.stderr
        assert not server.unknown
    (sent,) = server.runs.values()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert sent.name == (tmp_path / "run" / "wandb_id").read_text()
    assert sent.about["groupName"] == "v2_table3/small=shapes"
    assert sorted(sent.about["tags"]) == ["ASPP-L", "shapes", "v2 table 3"]
    assert sent.about["displayName"] == result["name"][:128]
    asked = {"row": result["name"], "seed": 0, "dataset": "shapes", "sweep": "v2_table3/small=shapes"}
    assert {key: sent.config[key] for key in asked} == asked
    assert sent.config["total_batch"] == 4
    assert sent.summary["miou"] == pytest.approx(result["scores"]["mean_iou"])
    assert sent.summary["published"] == pytest.approx(0.6896)
    assert sent.summary["parameters"] == result["parameters"]
    assert "difference" not in sent.summary  # on other data
    assert {f"iou/{name}" for name in result["scores"]["iou"]} <= sent.summary.keys()
    assert [row["trainer/global_step"] for row in sent.history if "val/miou" in row] == [6, 12]
    assert sent.exit_code == 0


@pytest.mark.slow
def test_the_agents_of_a_wandb_sweep_train_with_its_parameters(tmp_path):
    file = yaml.safe_load((SWEEPS / "wandb_v2_table3.yaml").read_text())
    fixed = dict(word.split("=", 1) for word in MINIATURE) | {"logger": "wandb"}
    file["parameters"] = {"seed": {"values": [0, 1]}} | {key: {"value": value} for key, value in fixed.items()}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(file, sort_keys=False))
    programs = Path(sys.executable).parent
    with wandb_server() as server:
        usual = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
        env = usual | server.environment | {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        del env["WANDB_MODE"]
        for arguments in (["sweep", "sweep.yaml"], ["agent", "me/atrous/sweep1"]):
            command = [str(programs / "wandb"), *arguments]
            done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, done.stderr
        assert not server.unknown
    assert {run.name: run.config["seed"] for run in server.runs.values()} == {"swept1": 0, "swept2": 1}
    assert {run.about["sweep"] for run in server.runs.values()} == {"sweep1"}
    for seed in (0, 1):
        (result,) = tmp_path.glob(f"runs/shapes/*/seed{seed}/result.json")
        miou = json.loads(result.read_text())["scores"]["mean_iou"]
        assert server.runs[f"swept{seed + 1}"].summary["miou"] == pytest.approx(miou)


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("wandb_*.yaml")), ids=lambda path: path.stem)
def test_a_wandb_sweep_names_settings_that_are_there(path):
    file = yaml.safe_load(path.read_text())
    assert file["command"][:3] == ["${env}", "${program}", "train"]
    values = {
        key: node.get("value", node.get("min", node.get("values", [0])[0])) for key, node in file["parameters"].items()
    }
    arguments = [f"{key}={value}" for key, value in values.items()]
    assert problem_with(arguments) is None
    configure(*arguments)
