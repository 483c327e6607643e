"""The face: `make VERB NAME=value` becomes `atrous VERB key=value`."""

import json
import os
import re
import shlex
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
from warm import cold

from atrous.__main__ import VERBS as VERBS_OF_ATROUS
from atrous.command.make import VERBS, help_lines, install, overrides, variables
from atrous.config.place import CLONE

AWKWARD = r"""runs/a=b,c/{x}  $HOME $$ "q" 's' * ? # ; & | \ -- é"""


def atrous_for(command: str) -> str:
    """`atrous …` for `make …`, both in the shell's quoting."""
    target, *given = shlex.split(command)
    return shlex.join(overrides(target, dict(each.split("=", 1) for each in given)))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("train", "train experiment=shapes"),
        (
            "train DATASET=voc BACKBONE=vgg16 HEAD=plain SEED=1 ROOT=/data ARGS='workers=0 resume=never'",
            "train experiment=voc model/backbone=vgg16 model/head=plain seed=1 data.root=/data workers=0 resume=never",
        ),
        ("sweep SWEEP=v2_table3", "sweep sweeps=v2_table3"),
        ("sweep SWEEP=v2_table3 DATASET=shapes", "sweep sweeps=v2_table3 small=shapes seed=0,1"),
        ("report SWEEP=crf DATASET=camvid SEED=3 ARGS=keep=true", "report sweeps=crf small=camvid seed=3 keep=true"),
        ("dashboard SWEEP=crf ROOT=d SEED=0,1,2", "dashboard sweeps=crf seed=0,1,2 data.root=d"),
        ("sync ARGS=runs=elsewhere", "sync runs=elsewhere"),
        ("reproduce RUN=r OUT=o", "reproduce run=r out=o"),
        ("doctor OUT=o RUN=", "doctor out=o"),
        ("describe HEAD=aspp_l", "describe model/head=aspp_l"),
        ("evaluate RUN=r CRF=v1 ARGS=split=val", "evaluate run=r crf=v1 split=val"),
        ("compare A=a B=b CRF=v1", "compare a=a b=b crf=v1"),
        ("worst RUN=r CRF=v1", "worst run=r crf=v1"),
        ("tune-crf RUN=r SEARCH=v1 ARGS=pictures=10", "tune run=r search=v1 pictures=10"),
        ("predict RUN=r IMAGES=i OUT=o CRF=v2", "predict run=r images=i out=o crf=v2"),
        ("demo RUN=r CRF=v1", "demo run=r crf=v1"),
        ("crf IMAGE=i LABEL=l PROBS=p CRF=c", "refine image=i label=l probs=p crf=c"),
        ("export RUN=r ARGS=format=onnx", "export run=r format=onnx"),
        ("submit RUN=r CRF=v2 ROOT=d", "submit run=r crf=v2 root=d"),
        ("submit CHECK=a.tgz DATASET=voc ROOT=d", "submit check=a.tgz data=voc root=d"),
        ("prepare", "prepare data=shapes"),
        ("prepare DATASET=voc ROOT=d ARGS=download=true", "prepare data=voc root=d download=true"),
        ("check-data DATASET=voc ROOT=d", "check-data data=voc data.root=d"),
        ("browse DATASET=voc SEED=1 ROOT=d", "browse experiment=voc seed=1 data.root=d"),
    ],
)
def test_variables_become_overrides(command, expected):
    assert atrous_for(command) == expected


def test_a_variable_that_a_verb_does_not_take_is_left_out():
    assert atrous_for("worst RUN=r SEED=3 DATASET=voc") == "worst run=r"


def test_args_are_split_as_a_shell_splits_them_and_nothing_in_them_is_expanded():
    given = {"ARGS": """'out=a b' +x={y:1,z:[2]} crf.w1=\\"6\\" images=*.png root=$HOME"""}
    assert overrides("sync", given)[1:] == ["out=a b", "+x={y:1,z:[2]}", 'crf.w1="6"', "images=*.png", "root=$HOME"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sweep DATASET=voc", "DATASET=voc: a sweep takes camvid or shapes, or without DATASET its own data"),
        ("""train ARGS='"'""", "ARGS=\" can't be read (No closing quotation)"),
    ],
)
def test_a_mistake_is_refused_with_the_value_and_the_remedy(command, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        atrous_for(command)


def test_the_command_line_of_make_goes_before_the_environment():
    env = {"RUN": "expanded", "SEED": "1", "MAKEFLAGS": r"s -j2 -- CRF:=v1 RUN=a\ \\b\ $$c\ --\ "}
    assert {name: variables(env)[name] for name in ("RUN", "SEED", "CRF")} == {
        "RUN": "a \\b $c -- ",
        "SEED": "1",
        "CRF": "v1",
    }
    assert variables({"MAKEFLAGS": "n", "A": "b"})["A"] == "b"


def test_every_verb_is_one_of_atrous_and_says_which_variables_it_takes():
    for target, verb in VERBS.items():
        assert verb.name in VERBS_OF_ATROUS
        named = set(re.findall(r"\b([A-Z]+)=", verb.help)) - {"ARGS"}
        assert named <= verb.keys.keys(), target
    assert {verb.name for verb in VERBS.values()} == set(VERBS_OF_ATROUS)


def test_an_installed_package_is_not_installed_again(monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    install("torch", "torch==0")


# ---- make itself ----------------------------------------------------------------------------------------------------
@pytest.fixture
def make(tmp_path):
    """make in a clone whose `atrous` prints what it is called with."""
    shutil.copy(CLONE / "Makefile", tmp_path)
    (tmp_path / "src").symlink_to(CLONE / "src")
    for name in ("pyproject.toml", "requirements.lock"):
        (tmp_path / name).touch()
    venv.create(tmp_path / ".venv", symlinks=True)
    script = tmp_path / ".venv" / "bin" / "atrous"
    script.write_text(f"#!{script.parent / 'python'}\nimport json, sys\nprint(json.dumps(sys.argv))\nsys.exit(7)")
    for path in (script, script.with_name("uv"), tmp_path / ".venv" / ".installed"):
        path.touch()
        path.chmod(0o755)
    # The suite may be run by make itself, whose variables are not this call's.
    ours = {"ARGS", *(name for verb in VERBS.values() for name in verb.keys)}
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS")) and key not in ours
    }

    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        with cold():
            paths = {"PYTHONPATH": str(CLONE / "src")}
            return subprocess.run(
                ["make", *arguments], cwd=tmp_path, env=env | paths | more, capture_output=True, text=True
            )

    return call


def test_make_hands_every_value_on_whole(make):
    done = make("tune-crf", f"RUN={AWKWARD}", "SEARCH=v1", 'ARGS="x=a b" y=$(z)', CRF="v2")
    assert json.loads(done.stdout)[1:] == ["tune", f"run={AWKWARD}", "search=v1", "x=a b", "y=$(z)"]
    assert "Error 7" in done.stderr


def test_make_takes_variables_from_the_environment_too(make):
    script, *called = json.loads(make("evaluate", RUN="a b", CRF="v2").stdout)
    assert Path(script).name == "atrous"
    assert called == ["evaluate", "run=a b", "crf=v2"]


def test_make_says_what_a_sweep_takes(make):
    done = make("sweep", "DATASET=voc")
    assert done.stdout == ""
    assert done.stderr.startswith("make sweep: DATASET=voc: a sweep takes camvid or shapes")


def test_make_knows_every_verb_and_lists_it(make):
    done = make("-n", *VERBS)
    assert done.stdout.splitlines() == [f".venv/bin/python -m atrous.command.make {target}" for target in VERBS]
    listed = make().stdout.splitlines()
    assert listed[: len(VERBS)] == help_lines()
    assert {"test", "check", "lock", "clean", "setup"} <= {line.split()[1] for line in listed[len(VERBS) :]}
