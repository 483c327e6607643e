"""Several processes on one CPU, over gloo."""

import json
import socket
import subprocess
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from running import MINIATURE, atrous, living, run, started, wait_until, weights


def test_ten_pictures_on_three_processes_and_on_one_give_the_same_matrix(tmp_path):
    over = ["val_batch=1", "total_batch=6"]
    alone = run(tmp_path, *over)
    (tmp_path / "result.json").unlink()
    usual = [text for text in MINIATURE if not text.startswith(("val_batch", "total_batch"))]
    # The run has come to its end: it only scores, on three processes.
    done = atrous("train", *usual, *over, "trainer=ddp", "trainer.devices=3", f"run_dir='{tmp_path}'")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["devices"] == 3
    assert result["confusion"] == alone["confusion"]
    assert np.sum(result["confusion"]) > 0


def test_two_processes_train_as_one_does(tmp_path):
    """Frozen batch-norm, so that a picture's gradient does not depend on its companions."""
    overrides = ["model.backbone.norm=frozen", "val_batch=1", "trainer.max_steps=4", "optim.lr=0.001"]
    run(tmp_path / "one", *overrides, "device_batch=2")
    usual = [text for text in MINIATURE if not text.startswith(("val_batch", "trainer.max_steps"))]
    done = atrous("train", *usual, *overrides, "trainer=ddp", "trainer.devices=2", f"run_dir='{tmp_path / 'two'}'")
    assert done.returncode == 0, done.stderr
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in one:
        np.testing.assert_allclose(two[key].numpy(), one[key].numpy(), rtol=1e-4, atol=1e-6, err_msg=key)


def test_processes_with_different_configurations_refuse_to_train(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    overrides = ["train", *MINIATURE, "trainer=ddp", "trainer.devices=2", f"run_dir='{tmp_path}'"]
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(
                started(
                    *[*overrides, f"optim.lr=0.{rank + 1}"],
                    env=shared
                    | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"},
                    stderr=subprocess.PIPE,
                )
            )
            for rank in range(2)
        ]
        errors = [process.communicate(timeout=120)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [2, 2], errors
    assert all("optim.lr: 0.1 | 0.2" in text for text in errors)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.slow
def test_a_signal_to_the_first_process_saves_and_leaves_none_behind(tmp_path):
    usual = [text for text in MINIATURE if not text.startswith(("trainer.max_steps", "checkpoint_every"))]
    long = ["trainer.max_steps=100000", "trainer.val_check_interval=100000", "checkpoint_every=50"]
    overrides = [*usual, *long, "trainer=ddp", "trainer.devices=2", f"run_dir='{tmp_path}'"]
    with started("train", *overrides, cwd=tmp_path) as process:
        last = tmp_path / "checkpoint" / "last.ckpt"
        wait_until(last.exists)
        process.terminate()
        assert process.wait(timeout=60) == 143
    assert torch.load(last, weights_only=True)["global_step"] % 10 == 0
    assert not living(tmp_path)
