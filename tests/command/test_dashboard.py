import json
import shutil
import sys

import pytest
from running import MINIATURE, atrous, run_plain
from wandb_server import wandb_server

from atrous.__main__ import main
from atrous.config.override import absences
from atrous.digest import file_digest
from atrous.sweep.plan import make_plan

OVERRIDES = [*(each for each in MINIATURE if not each.startswith(("logger", "crf"))), "crf=null"]
SWEEP = [*OVERRIDES, "model/head=largefov,aspp_s"]
PLANNED = absences(SWEEP, "sweep")  # as `atrous` reads it


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder in which one run of a sweep has ended and been evaluated, and the other has not begun."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "offline")
        (first, _) = make_plan(PLANNED).cells
        run_plain(*first.overrides, f"run_dir='{first.path}'", f"name='{first.row}'", "logger=wandb")
        path = folder / first.path / "evaluate" / "val" / "result.json"
        path.parent.mkdir(parents=True)
        trimap = {"width": list(range(1, 41)), "mean_iou": [0.01 * width for width in range(1, 41)]}
        result = json.loads((first.path / "result.json").read_text())
        scored = {"of": file_digest(first.path / "result.json"), "trimap": trimap, "trimap_crf": None}
        path.write_text(json.dumps(result | scored))
    return folder


def blocks(made):
    return json.dumps(made["report"]["spec"]["blocks"])


def test_without_a_login_the_specification_is_a_file_and_nothing_is_sent(swept, monkeypatch, capsys):
    monkeypatch.chdir(swept)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["dashboard", *SWEEP]) == 0
    output = capsys.readouterr().out
    path = make_plan(PLANNED).folder / "dashboard.json"
    assert str(path) in output
    assert "wandb login" in output
    made = json.loads(path.read_text())
    assert made.keys() == {"workspace", "report"}

    spec = json.dumps(made["workspace"])
    for logged in ("val/miou", "train/loss", "iou/ground", "iou/moon", "parameters", "val/pictures"):
        assert logged in spec, logged
    result = json.loads((make_plan(PLANNED).cells[0].path / "result.json").read_text())
    assert f"{100 * result['scores']['mean_iou']:.2f}" in blocks(made)
    assert "| 1/1 |" in blocks(made)
    assert "| 0/1 |" in blocks(made)
    assert "| 1.00 | 5.00 | 10.00 | 20.00 | 40.00 |" in blocks(made)


@pytest.mark.slow
def test_with_a_login_both_pages_are_published_and_the_second_time_replaced(swept, tmp_path):
    folder = shutil.copytree(swept, tmp_path / "swept")
    with wandb_server() as server:
        for _ in range(2):
            done = atrous("dashboard", *SWEEP, cwd=folder, env=server.environment)
            assert done.returncode == 0, done.stderr
        assert not server.unknown
    assert f"workspace  {server.url}/me/atrous?nw=" in done.stdout
    assert f"report     {server.url}/me/atrous/reports/" in done.stdout
    assert sorted(view["type"] for view in server.views.values()) == ["project-view", "runs"]
    curves = list(server.runs.values())[-1]
    assert [row["width"] for row in curves.history] == list(range(1, 41))
    (key,) = {key for key in curves.history[0] if key.startswith("trimap/")}
    assert curves.history[4][key] == pytest.approx(5)
    report = next(view for view in server.views.values() if view["type"] == "runs")
    assert json.dumps(curves.name)[1:-1] in report["spec"]


def test_without_the_package_one_line_says_how_to_install_it(swept, monkeypatch, capsys):
    monkeypatch.chdir(swept)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    for name in ("wandb_workspaces.workspaces", "wandb_workspaces.reports.v2"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["dashboard", *SWEEP]) == 2
    message = capsys.readouterr().err
    assert "pip install 'atrous[dashboard]'" in message
    assert message.count("\n") == 1


def test_runs_that_go_nowhere_in_wandb_have_no_dashboard(swept, monkeypatch, capsys):
    monkeypatch.chdir(swept)
    assert main(["dashboard", *SWEEP, "logger=csv"]) == 2
    assert "logger=wandb" in capsys.readouterr().err
