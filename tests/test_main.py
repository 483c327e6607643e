import json
import subprocess
import sys

import pytest
from running import MINIATURE, atrous, equal, weights
from warm import cold

from atrous.__main__ import main
from atrous.config.error import message_of


def test_help_lists_the_verbs_without_importing_torch(capsys):
    assert main(["--help"]) == 0
    assert "train" in capsys.readouterr().out
    code = "import sys; from atrous.__main__ import main; main(['--help']); assert 'torch' not in sys.modules"
    with cold():
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "arguments", [["--help"], ["experiment=shapes", "--help"], ["experiment=shapes", "--cfg", "job"]]
)
def test_help_and_the_configuration_of_a_verb_need_no_torch(arguments):
    code = f"import sys; from atrous.__main__ import main; main(['train', *{arguments}])"
    guarded = f"import sys; sys.modules['torch'] = None\n{code}"  # an import of torch fails
    with cold():
        done = subprocess.run([sys.executable, "-c", guarded], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "model" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "did you mean train"),
        (["train", "experiment=shapes", "model/head=aspl"], "did you mean model/head=aspp_l"),
        (["train", "experiment=shapes", "data=voc", "data.root=/nowhere", "logger=csv"], "data.root="),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(arguments, expected, tmp_path):
    done = atrous(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) <= 5
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()  # nothing is left behind


def test_a_multirun_on_several_processes_in_one_is_refused(tmp_path):
    done = atrous(
        "train",
        "experiment=shapes",
        "seed=0,1",
        "trainer=ddp",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
        "hydra/launcher=basic",
        "--multirun",
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert "hydra/launcher=local" in done.stderr


def test_an_error_that_is_not_ours_is_a_bug_and_keeps_its_traceback():
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("x")
    assert message_of(caught.value) is None


def test_an_error_of_ours_from_a_loader_process_is_told_as_ours():
    from torch.utils.data import DataLoader

    with pytest.raises(ValueError, match="worker process 0") as caught:
        list(DataLoader(Broken(), num_workers=1))  # type: ignore[arg-type]
    assert message_of(caught.value) == ("`split` must be one of train, val (got 'none')", 2)


class Broken:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        from atrous.data.shapes import Shapes

        return Shapes().split("none")


def test_train_as_a_user_types_it(tmp_path):
    """One command, in an empty folder: a run folder, scores, W&B offline, no question asked; again: complete."""
    arguments = [text for text in MINIATURE if not text.startswith(("logger", "callback", "workers", "crf", "augment"))]
    arguments += ["augment=v1", "augment.crop=33", "crf=v2", "workers=1"]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(TELLTALE)
    env = {"WANDB_MODE": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "OMP_NUM_THREADS": "1"}
    env |= {"PYTHONPATH": str(tmp_path / "site"), "TELLTALE": str(tmp_path / "asked")}
    with cold():
        done = atrous("train", *arguments, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs").rglob("result.json")
    result = json.loads(path.read_text())
    assert path.parent.name == "seed0"
    assert path.parents[2].name == "shapes"
    assert f"{100 * result['scores']['mean_iou']:.2f}" in done.stdout
    assert "with the CRF" in done.stdout
    assert "W&B ran offline" in done.stdout
    assert list(path.parent.glob("wandb/offline-run-*/*.wandb"))
    again = atrous("train", *arguments, cwd=tmp_path, env=env)
    assert again.returncode == 0
    assert "this run is complete" in again.stdout
    assert "iteration" not in again.stdout.split("checkpoint/")[0]
    assert not (tmp_path / "asked").exists(), (tmp_path / "asked").read_text()


# Writes down every host name that the process asks for.
TELLTALE = """
import os, socket

ask = socket.getaddrinfo

def ask_and_note(host, *rest, **more):
    if host not in ("localhost", "127.0.0.1", "::1", None):
        open(os.environ["TELLTALE"], "a").write(f"{host}\\n")
    return ask(host, *rest, **more)

socket.getaddrinfo = ask_and_note
"""


def test_kill_9_and_the_same_command_again_end_as_the_unbroken_run(tmp_path):
    arguments = ["train", *MINIATURE, "workers=1"]
    for name, more in (("whole", []), ("killed", ["+callback.kill={_target_:running.Signal,at:7,name:SIGKILL}"])):
        done = atrous(*arguments, f"run_dir='{tmp_path / name}'", *more, env={"PYTHONPATH": "tests"})
        assert done.returncode == (0 if name == "whole" else -9), done.stderr
    assert not (tmp_path / "killed" / "result.json").exists()
    assert atrous(*arguments, f"run_dir='{tmp_path / 'killed'}'").returncode == 0
    assert equal(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
