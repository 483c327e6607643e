"""A sweep through what happens to it: every run a process of its own, none of which the others, or a second command,
depend on."""

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
from atrous.sweep.cell import State, plan
from atrous.sweep.launch import begins_with
from atrous.sweep.pool import Job, Pool, last_line

TESTS = str(Path(__file__).resolve().parents[1])
SEEN = {"PYTHONPATH": TESTS}  # the callbacks of tests/running.py
LONG = ("trainer.max_steps=100000", "trainer.val_check_interval=100000", "checkpoint_every=20")


def words(*more: str) -> list[str]:
    """A sweep of miniatures."""
    asked = {word.split("=")[0] for word in more}
    return [*(word for word in MINIATURE if word.split("=")[0] not in asked), "evaluate=false", *more]


def cells(*more: str):
    return plan(absences(words(*more), "sweep")).cells


def states(*more: str) -> list[str]:
    return [cell.state()[0].value for cell in cells(*more)]


# ---- whatever happens -----------------------------------------------------------------------------------------------
def test_of_five_runs_one_raises_and_one_is_killed_and_the_same_command_again_ends_all_five(here):
    mishap = f"+callback.mishap={{_target_:running.Mishap,at:9,raises:1,killed:3,unless:'{here / 'mended'}'}}"
    asked = ("seed=0,1,2,3,4", mishap, "hydra.launcher.jobs=2")
    first = atrous("sweep", *words(*asked), cwd=here, env=SEEN, timeout=280)
    assert first.returncode == 1, first.stderr
    assert "Traceback" not in first.stderr
    found = cells(*asked)
    results = {cell.seed: cell.path / "result.json" for cell in found if (cell.path / "result.json").exists()}
    assert sorted(results) == [0, 2, 4]
    assert found[1].state() == (State.failed, "Interrupted: seed 1 would not")
    assert found[3].state() == (State.failed, "killed by SIGKILL")
    table = (plan(absences(words(*asked), "sweep")).folder / "table.md").read_text()
    assert "seed 1: failed: Interrupted: seed 1 would not." in table
    assert "| 3/5 |" in table
    assert not living(here)

    before = {seed: path.stat().st_mtime_ns for seed, path in results.items()}
    (here / "mended").touch()
    second = atrous("sweep", *words(*asked), cwd=here, env=SEEN, timeout=280)
    assert second.returncode == 0, second.stderr
    assert "5 runs, 3 of them complete" in second.stdout
    assert states(*asked) == ["finished"] * 5
    assert {seed: path.stat().st_mtime_ns for seed, path in results.items()} == before
    assert "going on from" in (found[3].path / "run.log").read_text()  # from its checkpoint at iteration 8
    assert json.loads((found[3].path / "result.json").read_text())["config_hash"] == found[3].folder.digest


def test_a_run_whose_configuration_has_changed_is_refused_with_what_differs_unless_forced(here, capsys):
    asked = ("trainer.max_steps=2", "trainer.val_check_interval=2", "name=mine", "run_dir=runs/mine/${seed}")
    assert main(["sweep", *words(*asked)]) == 0
    capsys.readouterr()
    assert main(["sweep", *words(*asked, "optim.lr=0.01", "weights=null")]) == 2
    told = capsys.readouterr().err
    assert "optim.lr: 0.1 there, 0.01 here" in told
    assert "force=true" in told
    assert main(["sweep", *words(*asked, "optim.lr=0.01", "weights=null", "force=true")]) == 0
    assert "optim:\n" in Path("runs/mine/0/config.yaml").read_text()
    assert "lr: 0.01" in Path("runs/mine/0/config.yaml").read_text()
    capsys.readouterr()
    assert main(["sweep", *words(*asked, "optim.lr=0.01", "weights=null")]) == 0  # nothing left to force
    assert "all 1 runs are complete" in capsys.readouterr().out


def test_a_run_that_can_not_be_is_told_before_any_begins(here, capsys):
    assert main(["sweep", *words("seed=0,1", "hydra.launcher.jobs=0")]) == 2
    assert "`hydra.launcher.jobs` must be at least 1 (got 0)" in capsys.readouterr().err
    assert main(["sweep", *words("model/head=largefov,aspp_x")]) == 2
    assert "aspp_x" in capsys.readouterr().err
    assert not list(here.glob("runs/**/config.yaml"))


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_signal_makes_all_runs_save_and_leaves_no_process(here, name):
    asked = words(*LONG, "seed=0,1", "hydra.launcher.jobs=2")
    with started("sweep", *asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        saved = [cell.path / "checkpoint" / "last.ckpt" for cell in cells(*LONG, "seed=0,1")]
        wait_until(lambda: all(path.exists() for path in saved))
        process.send_signal(signal.Signals[name])
        told, wrong = process.communicate(timeout=60)
    assert process.returncode == {"SIGINT": 130, "SIGTERM": 143}[name], wrong
    assert f"stopped by {name}; the same command goes on" in told
    assert not living(here)
    assert states(*LONG, "seed=0,1") == ["interrupted"] * 2


def test_when_the_sweep_itself_is_killed_its_runs_save_and_end(here):
    asked = words(*LONG, "seed=0,1", "hydra.launcher.jobs=2")
    with started("sweep", *asked, stdout=subprocess.DEVNULL) as process:
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
    asked = (*ddp, "optim.lr=0.01,0.02", "trainer.max_steps=4", "trainer.val_check_interval=4", "val_batch=1")
    done = atrous("sweep", *words(*asked), cwd=here, env=SEEN, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    for rate, cell in zip(rates, cells(*asked)):
        assert cell.state()[0] is State.finished
        told = [(cell.path / f"rank{rank}.txt").read_text().split() for rank in range(2)]
        assert [float(each[0]) for each in told] == [float(rate)] * 2
        assert [each[1] for each in told] == ["2", "2"]


def test_a_sweep_trains_the_very_runs_of_atrous_train_also_where_a_group_is_left_out(here, capsys):
    """Hydra's sweeper writes `crf=null` otherwise than a user does."""
    asked = ("trainer.max_steps=2", "trainer.val_check_interval=2", "model/multiscale=null")
    assert main(["sweep", *words(*asked)]) == 0
    capsys.readouterr()
    plain = [word for word in words(*asked) if word != "evaluate=false"]
    assert main(["train", *plain]) == 0
    assert "this run is complete" in capsys.readouterr().out
    assert len(list(here.glob("runs/**/result.json"))) == 1


def test_gpus_are_handed_out_and_cores_shared():
    pool = Pool(["0", "1", "2", "3"], gpus=True)
    job = Job("", [], Path("log"), devices=2, environment={"WANDB_RUN_GROUP": "table"}, slots=["1", "3"])
    env = pool.environment(job, [0, 1, 2, 3])
    assert env["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["WANDB_RUN_GROUP"] == "table"
    assert "CUDA_VISIBLE_DEVICES" not in Pool(["cores 0"], gpus=False).environment(job, [0]).keys() - os.environ.keys()


def test_a_row_that_begins_with_another_ones_weights_waits_for_it(tmp_path):
    found = plan(("sweeps=v1_table1", "seed=0")).cells
    waits = {cell.experiment: [other.experiment for other in found if begins_with(cell, other)] for cell in found}
    assert waits["v1_msc"] == ["v1_deeplab"]
    assert waits["v1_msc_largefov"] == ["v1_largefov"]
    assert waits["v1_deeplab"] == []

    order: list[str] = []
    second = Job("second", [["--version"]], tmp_path / "second.log", done=lambda: order.append("second"))
    first = Job("first", [["--version"], ["--version"]], tmp_path / "first.log", done=lambda: order.append("first"))
    second.after = [first]
    Pool(["cores 0", "cores 1"], gpus=False).run([second, first], lambda pool: None)
    assert order == ["first", "second"]


def test_a_job_that_fails_leaves_its_later_steps_out_and_the_others_alone(tmp_path):
    failing = Job("failing", [["nonsense"], ["--version"]], tmp_path / "a.log")
    well = Job("well", [["--version"]], tmp_path / "b.log")
    Pool(["cores 0"], gpus=False).run([failing, well], lambda pool: None)
    assert (failing.code, failing.step) == (2, 0)
    assert well.code == 0
    assert re.search("there is no verb 'nonsense'", failing.told)


def test_of_a_log_the_last_whole_line_is_shown(tmp_path):
    path = tmp_path / "log"
    assert last_line(path) == ""
    path.write_text("one\ntwo\n\n")
    assert last_line(path) == "two"


def test_pictures_that_are_not_there_are_told_once_before_any_run_begins(here, capsys):
    assert main(["sweep", "sweeps=v2_table3"]) == 2
    told = capsys.readouterr().err
    assert "no voc at" in told
    assert told.count("VOCtrainval") == 1
    assert not list(here.iterdir())


def test_each_of_the_values_that_a_sweep_goes_through_is_checked(here, capsys):
    assert main(["sweep", *words("optim.lr=0.1,much")]) == 2
    assert "`optim.lr` is a number (0.1 unless set); got 'much'" in capsys.readouterr().err
    assert main(["sweep", *words("model.backbone.width=range(8,16,4)", "dry_run=true")]) == 0
