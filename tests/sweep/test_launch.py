"""Launching a sweep: every run is a process of its own, and no other run, nor a second command, depends on its end."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from running import MINIATURE, atrous, living, started, wait_until

from atrous.__main__ import main
from atrous.config.override import absences
from atrous.sweep.cell import State
from atrous.sweep.job import SweepJob, last_line
from atrous.sweep.launch import starts_from
from atrous.sweep.plan import make_plan
from atrous.sweep.pool import Pool

TESTS = str(Path(__file__).resolve().parents[1])
ENV = {"PYTHONPATH": TESTS}  # for the callbacks of tests/running.py
LONG = ("trainer.max_steps=100000", "trainer.val_check_interval=100000", "checkpoint_every=20")


def overrides(*more: str) -> list[str]:
    """A sweep of miniatures."""
    given = {override.split("=")[0] for override in more}
    return [*(override for override in MINIATURE if override.split("=")[0] not in given), "evaluate=false", *more]


def cells(*more: str):
    return make_plan(absences(overrides(*more), "sweep")).cells


def states(*more: str) -> list[str]:
    return [cell.state()[0].value for cell in cells(*more)]


# ---- mishaps -----------------------------------------------------------------------------------------------
def test_after_one_of_five_runs_raises_and_one_is_killed_the_same_command_ends_all_five(here):
    mishap = f"+callback.mishap={{_target_:running.Mishap,at:9,raises:1,killed:3,unless:'{here / 'mended'}'}}"
    options = ("seed=0,1,2,3,4", mishap, "hydra.launcher.jobs=2")
    first = atrous("sweep", *overrides(*options), cwd=here, env=ENV, timeout=280)
    assert first.returncode == 1, first.stderr
    assert "Traceback" not in first.stderr
    made = cells(*options)
    results = {cell.seed: cell.path / "result.json" for cell in made if (cell.path / "result.json").exists()}
    assert sorted(results) == [0, 2, 4]
    assert made[1].state() == (State.failed, "Interrupted: seed 1 would not")
    assert made[3].state() == (State.failed, "killed by SIGKILL")
    table = (make_plan(absences(overrides(*options), "sweep")).folder / "table.md").read_text()
    assert "seed 1: failed: Interrupted: seed 1 would not." in table
    assert "| 3/5 |" in table
    assert not living(here)

    before = {seed: path.stat().st_mtime_ns for seed, path in results.items()}
    (here / "mended").touch()
    second = atrous("sweep", *overrides(*options), cwd=here, env=ENV, timeout=280)
    assert second.returncode == 0, second.stderr
    assert "5 runs, 3 of them complete" in second.stdout
    assert states(*options) == ["finished"] * 5
    assert {seed: path.stat().st_mtime_ns for seed, path in results.items()} == before
    assert "going on from" in (made[3].path / "run.log").read_text()  # from its checkpoint at iteration 8
    assert json.loads((made[3].path / "result.json").read_text())["config_hash"] == made[3].folder.digest


def test_a_run_whose_configuration_has_changed_is_refused_with_what_differs_unless_forced(here, capsys):
    options = ("trainer.max_steps=2", "trainer.val_check_interval=2", "name=mine", "run_dir=runs/mine/${seed}")
    assert main(["sweep", *overrides(*options)]) == 0
    capsys.readouterr()
    assert main(["sweep", *overrides(*options, "optim.lr=0.01", "weights=null")]) == 2
    message = capsys.readouterr().err
    assert "optim.lr: 0.1 there, 0.01 here" in message
    assert "force=true" in message
    assert main(["sweep", *overrides(*options, "optim.lr=0.01", "weights=null", "force=true")]) == 0
    assert "optim:\n" in Path("runs/mine/0/config.yaml").read_text()
    assert "lr: 0.01" in Path("runs/mine/0/config.yaml").read_text()
    capsys.readouterr()
    assert main(["sweep", *overrides(*options, "optim.lr=0.01", "weights=null")]) == 0  # nothing left to force
    assert "all 1 runs are complete" in capsys.readouterr().out


def test_what_can_not_run_is_refused_before_any_run_begins(here, capsys):
    assert main(["sweep", *overrides("seed=0,1", "hydra.launcher.jobs=0")]) == 2
    assert "`hydra.launcher.jobs` must be at least 1 (got 0)" in capsys.readouterr().err
    assert main(["sweep", *overrides("model/head=largefov,aspp_x")]) == 2
    assert "aspp_x" in capsys.readouterr().err
    assert not list(here.glob("runs/**/config.yaml"))


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_signal_makes_all_runs_save_and_leaves_no_process(here, name):
    options = overrides(*LONG, "seed=0,1", "hydra.launcher.jobs=2")
    with started("sweep", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        saved = [cell.path / "checkpoint" / "last.ckpt" for cell in cells(*LONG, "seed=0,1")]
        wait_until(lambda: all(path.exists() for path in saved))
        process.send_signal(signal.Signals[name])
        output, errors = process.communicate(timeout=60)
    assert process.returncode == {"SIGINT": 130, "SIGTERM": 143}[name], errors
    assert f"stopped by {name}; the same command goes on" in output
    assert not living(here)
    assert states(*LONG, "seed=0,1") == ["interrupted"] * 2


def test_when_the_sweep_itself_is_killed_its_runs_save_and_end(here):
    options = overrides(*LONG, "seed=0,1", "hydra.launcher.jobs=2")
    with started("sweep", *options, stdout=subprocess.DEVNULL) as process:
        saved = [cell.path / "checkpoint" / "last.ckpt" for cell in cells(*LONG, "seed=0,1")]
        wait_until(lambda: all(path.exists() for path in saved))
        assert len(living(here)) >= 3
        process.kill()
    wait_until(lambda: not living(here), seconds=30)
    assert states(*LONG, "seed=0,1") == ["interrupted"] * 2


# ---- what each process gets -----------------------------------------------------------------------------------------
def test_both_ranks_of_every_ddp_run_have_the_settings_of_that_run(here):
    rates = ["0.01", "0.02"]
    ddp = (
        "trainer=ddp",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
        "+callback.witness={_target_:running.Witness}",
    )
    options = (*ddp, "optim.lr=0.01,0.02", "trainer.max_steps=4", "trainer.val_check_interval=4", "val_batch=1")
    done = atrous("sweep", *overrides(*options), cwd=here, env=ENV, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    for rate, cell in zip(rates, cells(*options)):
        assert cell.state()[0] is State.finished
        settings = [(cell.path / f"rank{rank}.txt").read_text().split() for rank in range(2)]
        assert [float(each[0]) for each in settings] == [float(rate)] * 2
        assert [each[1] for each in settings] == ["2", "2"]


def test_a_sweep_trains_the_very_runs_of_atrous_train_even_where_a_group_is_null(here, capsys):
    """Hydra's sweeper writes `crf=null` in another way than a user does."""
    options = ("trainer.max_steps=2", "trainer.val_check_interval=2", "model/multiscale=null")
    assert main(["sweep", *overrides(*options)]) == 0
    capsys.readouterr()
    plain = [override for override in overrides(*options) if override != "evaluate=false"]
    assert main(["train", *plain]) == 0
    assert "this run is complete" in capsys.readouterr().out
    assert len(list(here.glob("runs/**/result.json"))) == 1


def test_gpus_are_handed_out_and_cores_shared():
    pool = Pool(["0", "1", "2", "3"], gpus=True)
    job = SweepJob("", [], Path("log"), devices=2, environment={"WANDB_RUN_GROUP": "table"}, slots=["1", "3"])
    env = pool.environment(job, [0, 1, 2, 3])
    assert env["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["WANDB_RUN_GROUP"] == "table"
    assert "CUDA_VISIBLE_DEVICES" not in Pool(["cores 0"], gpus=False).environment(job, [0]).keys() - os.environ.keys()


def test_a_row_that_starts_from_another_rows_weights_waits_for_it(tmp_path):
    planned = make_plan(("sweeps=v1_table1", "seed=0")).cells
    waits = {cell.experiment: [other.experiment for other in planned if starts_from(cell, other)] for cell in planned}
    assert waits["v1_msc"] == ["v1_deeplab"]
    assert waits["v1_msc_largefov"] == ["v1_largefov"]
    assert waits["v1_deeplab"] == []

    order: list[str] = []
    second = SweepJob("second", [["--version"]], tmp_path / "second.log", done=lambda: order.append("second"))
    first = SweepJob(
        "first", [["--version"], ["--version"]], tmp_path / "first.log", done=lambda: order.append("first")
    )
    second.after = [first]
    Pool(["cores 0", "cores 1"], gpus=False).run([second, first], lambda pool: None)
    assert order == ["first", "second"]


def test_a_job_that_fails_skips_its_later_steps_and_leaves_the_other_jobs_alone(tmp_path):
    failing = SweepJob("failing", [["nonsense"], ["--version"]], tmp_path / "a.log")
    passing = SweepJob("passing", [["--version"]], tmp_path / "b.log")
    Pool(["cores 0"], gpus=False).run([failing, passing], lambda pool: None)
    assert (failing.code, failing.step) == (2, 0)
    assert passing.code == 0
    assert re.search("there is no verb 'nonsense'", failing.message)


def test_the_last_line_of_a_log_is_shown(tmp_path):
    path = tmp_path / "log"
    assert last_line(path) == ""
    path.write_text("one\ntwo\n\n")
    assert last_line(path) == "two"


def test_a_missing_dataset_is_reported_once_before_any_run_begins(here, capsys):
    assert main(["sweep", "sweeps=v2_table3"]) == 2
    message = capsys.readouterr().err
    assert "no voc at" in message
    assert message.count("VOCtrainval") == 1
    assert not list(here.iterdir())


def test_each_value_of_a_sweep_is_checked(here, capsys):
    assert main(["sweep", *overrides("optim.lr=0.1,much")]) == 2
    assert "`optim.lr` is a number (0.1 unless set); got 'much'" in capsys.readouterr().err
    assert main(["sweep", *overrides("model.backbone.width=range(8,16,4)", "dry_run=true")]) == 0
