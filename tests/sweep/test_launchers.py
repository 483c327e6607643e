"""The same sweep by Hydra's other launchers: its runs are the very runs of `atrous train`."""

import json
from pathlib import Path

import pytest
from running import MINIATURE, atrous

from atrous.config.override import absences
from atrous.sweep.plan import make_plan

USUAL = [override for override in MINIATURE if not override.startswith("trainer.max_steps")]
OVERRIDES = [*USUAL, "trainer.max_steps=6"]


def sweep_four(folder: Path, *launcher: str) -> None:
    overrides = [*OVERRIDES, "model/head=largefov,aspp_s", "seed=0,1", *launcher]
    done = atrous("sweep", *overrides, cwd=folder, timeout=280)
    assert done.returncode == 0, done.stderr
    assert len(list(folder.glob("runs/**/seed?/result.json"))) == 4
    plan = make_plan(absences(overrides, "sweep"))
    cells = plan.cells
    assert len(cells) == 4
    assert (folder / plan.folder / "index.html").exists()
    for cell in cells:  # by the hash of what `atrous train` would make of the same overrides
        assert json.loads((folder / cell.path / "result.json").read_text())["config_hash"] == cell.folder.digest
        # Scored as under our own launcher, if at all.
        assert len(list((folder / cell.path).glob("evaluate/*/pictures.npz"))) == plan.cfg.evaluate
        assert not (folder / cell.path / "probs").exists()
    again = atrous("train", *cells[-1].overrides, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "this run is complete" in again.stdout


@pytest.mark.parametrize("evaluate", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_submitit_trains_the_runs_of_atrous_train_in_their_folders(tmp_path, evaluate):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    here = ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", f"evaluate={evaluate}")
    sweep_four(tmp_path, *here)


@pytest.mark.slow
def test_a_ray_cluster_trains_the_runs_of_atrous_train_in_their_folders(tmp_path):
    pytest.importorskip("ray")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    sweep_four(tmp_path, "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "evaluate=true")
