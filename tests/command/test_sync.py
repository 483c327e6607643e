import shutil

import pytest
import wandb
from running import Interrupted, atrous, run
from wandb_server import wandb_server

from atrous.__main__ import main
from atrous.command.sync import unsynced


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A run that was interrupted once: two parts of one W&B run."""
    folder = tmp_path_factory.mktemp("runs")
    over = ("logger=wandb", "logger.wandb.mode=offline")
    with pytest.raises(Interrupted):
        run(folder / "a=b" / "seed0", *over, "+callback.die={_target_:running.Die,at:7}")
    run(folder / "a=b" / "seed0", *over)
    wandb.teardown()  # as at the end of a process: W&B writes in the background
    return folder


def test_offline_runs_are_sent_once(offline, tmp_path):
    runs = shutil.copytree(offline, tmp_path / "runs")
    wandb_id = (runs / "a=b" / "seed0" / "wandb_id").read_text()
    assert len(unsynced(runs)) == 2
    with wandb_server() as server:
        done = atrous("sync", "runs=runs", cwd=tmp_path, env=server.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "2/2" in done.stdout
        assert done.stdout.rstrip().endswith("2 runs sent")
        (sent,) = server.runs.values()
        assert not server.unknown
    assert sent.name == wandb_id
    validated = [row["trainer/global_step"] for row in sent.history if "val/miou" in row]
    assert validated[0] == 6
    assert validated[-1] == 12
    assert sent.exit_code == 0
    assert sent.config["dataset"] == "shapes"
    assert unsynced(runs) == []
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_run_that_was_sent_is_left_alone(tmp_path, capsys):
    part = tmp_path / "runs" / "a" / "wandb" / "offline-run-20260101_000000-abc"
    part.mkdir(parents=True)
    (part / "run-abc.wandb").touch()
    assert unsynced(tmp_path) == [part]
    (part / "run-abc.wandb.synced").touch()
    assert main(["sync", f"runs={tmp_path / 'runs'}"]) == 0
    assert "nothing to send: no unsynced offline run" in capsys.readouterr().out


def test_without_a_login_nothing_is_sent_and_one_line_says_what_to_do(tmp_path, monkeypatch, capsys):
    part = tmp_path / "wandb" / "offline-run-20260101_000000-abc"
    part.mkdir(parents=True)
    (part / "run-abc.wandb").touch()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["sync", f"runs={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert "`wandb login`" in message
    assert message.count("\n") == 1
    assert main(["sync", "runs=nowhere"]) == 2
    assert "`runs=nowhere` is no folder" in capsys.readouterr().err


def test_an_unreadable_run_does_not_stop_the_others(offline, tmp_path):
    runs = shutil.copytree(offline, tmp_path / "runs")
    broken = runs / "0" / "wandb" / "offline-run-20200101_000000-abc"
    broken.mkdir(parents=True)
    (broken / "run-abc.wandb").write_bytes(b"nothing of W&B's")
    with wandb_server() as server:
        done = atrous("sync", f"runs={runs}", env=server.environment)
    assert done.returncode == 2
    assert "NOT sent" in done.stdout
    assert "2 runs sent, 1 not" in done.stderr
    assert unsynced(runs) == [broken]
