"""Past one machine: who may start the processes of a run, whether all are there, and what happens when one dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from running import MINIATURE, atrous, started

from atrous.config.override import absences
from atrous.run.check import check_launcher
from atrous.sweep.plan import make_plan
from atrous.sweep.session import check_plan

DDP = ["trainer=ddp", "trainer.devices=2"]


class DieOn(L.Callback):
    """The process of one rank raises, or is gone, in batch 2."""

    def __init__(self, rank: int, kill: bool):
        self.rank, self.kill = rank, kill

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, index: int) -> None:
        if index == 2 and trainer.global_rank == self.rank:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the second one fell over")


# ---- who starts the processes ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("launcher", ["basic", "submitit_local", "ray", "joblib"])
def test_a_launcher_that_would_replay_the_sweep_on_each_rank_is_refused_in_favour_of_others(launcher):
    with pytest.raises(ValueError, match=f"{launcher} can't .* 2 processes.*=local .*=submitit_slurm on a cluster"):
        check_launcher(launcher, {"devices": 2, "num_nodes": 1})
    with pytest.raises(ValueError, match="2 processes"):
        check_launcher(launcher, {"devices": 1, "num_nodes": 2})
    with pytest.raises(ValueError, match="several processes"):
        check_launcher(launcher, {"devices": "auto", "num_nodes": 1})
    check_launcher(launcher, {"devices": 1, "num_nodes": 1})


def test_slurm_must_start_as_many_processes_as_a_run_has_devices():
    two_nodes = {"devices": 8, "num_nodes": 2}
    check_launcher("submitit_slurm", two_nodes, tasks=8, nodes=2)
    for tasks, nodes in [(1, 1), (8, 1), (16, 1)]:
        with pytest.raises(ValueError, match=r"hydra\.launcher\.tasks_per_node=8 hydra\.launcher\.nodes=2"):
            check_launcher("submitit_slurm", two_nodes, tasks, nodes)
    with pytest.raises(ValueError, match=r"trainer\.devices=auto"):
        check_launcher("submitit_slurm", {"devices": "auto", "num_nodes": 1})


def test_a_sweep_is_refused_for_one_of_its_runs():
    overrides = absences(MINIATURE, "sweep")
    with pytest.raises(ValueError, match="basic can't"):
        check_plan(make_plan([*overrides, "trainer=ddp", "trainer.devices=1,2", "hydra/launcher=basic"]))
    check_plan(make_plan([*overrides, "trainer=ddp", "trainer.devices=1,2", "hydra/launcher=local"]))
    slurm = [*overrides, *DDP, "hydra/launcher=submitit_slurm"]
    with pytest.raises(ValueError, match="would start 1 processes on each of 1 nodes"):
        check_plan(make_plan(slurm))
    check_plan(make_plan([*slurm, "hydra.launcher.tasks_per_node=2"]))


def test_the_refusal_is_a_line_and_comes_before_any_run(tmp_path):
    done = atrous("sweep", *MINIATURE, *DDP, "seed=0,1", "hydra/launcher=basic", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("config.yaml"))


def test_several_nodes_that_nothing_has_started_are_refused(tmp_path):
    done = atrous("train", *MINIATURE, *DDP, "trainer.num_nodes=2", f"run_dir='{tmp_path}'")
    assert done.returncode == 2
    assert "torchrun or srun" in done.stderr


# ---- are all processes there ----------------------------------------------------------------------------------------
def start(rank: int, world: int, port: int, folder: Path) -> AbstractContextManager["subprocess.Popen[str]"]:
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "RANK": str(rank)}
    env |= {
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world),
        "TORCHELASTIC_RUN_ID": "x",
        "ATROUS_PREFLIGHT": "4",
    }
    overrides = ["train", *MINIATURE, "total_batch=6", "trainer=ddp", f"trainer.devices={world}", f"run_dir='{folder}'"]
    return started(*overrides, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_rank_that_is_missing_is_named_by_all_others(tmp_path):
    port = free_port()
    with start(0, 3, port, tmp_path) as first, start(2, 3, port, tmp_path) as third:
        errors = [process.communicate(timeout=120)[1] for process in (first, third)]
    assert (first.returncode, third.returncode) == (2, 2), errors
    assert all("of 3 processes, rank 1 did not come within 4 s" in text for text in errors)
    assert not (tmp_path / "config.yaml").exists()


@pytest.mark.slow
def test_a_rank_without_the_first_one_says_where_it_looked(tmp_path):
    port = free_port()
    with start(1, 2, port, tmp_path) as alone:
        errors = alone.communicate(timeout=120)[1]
    assert alone.returncode == 2
    assert f"found no rank 0 at 127.0.0.1:{port} within 4 s" in errors


def test_torchrun_starts_a_run_and_the_ranks_are_shown_once(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    overrides = ["train", *MINIATURE, *DDP, f"run_dir='{tmp_path}'"]
    done = subprocess.run([*command, "-m", "atrous", *overrides], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rank  host  device") == 1
    host = socket.gethostname()
    assert f"   0  {host}  cpu" in done.stdout
    assert f"   1  {host}  cpu" in done.stdout
    assert (tmp_path / "result.json").exists()


# ---- one of them dies -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kill", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_rank_that_dies_ends_the_run_and_its_traceback_is_shown(tmp_path, kill):
    dies = f"+callback.dies={{_target_:test_scale.DieOn,rank:1,kill:{str(kill).lower()}}}"
    began = time.monotonic()
    done = atrous(
        *["train", *MINIATURE, *DDP, f"run_dir='{tmp_path}'", dies],
        env={"PYTHONPATH": str(Path(__file__).parent)},
        timeout=120,
    )
    assert done.returncode != 0
    assert time.monotonic() - began < 100
    assert not (tmp_path / "result.json").exists()
    if not kill:
        assert "the second one fell over" in done.stderr
