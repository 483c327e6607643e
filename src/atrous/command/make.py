"""`make VERB RUN=… CRF=…`: read make's variables as overrides, and become `atrous VERB overrides…`.

`make help` runs this file before anything is installed, with whatever Python 3 there is: standard library only.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from atrous.config.place import CLONE, CONF


class Verb(NamedTuple):
    name: str
    """As `atrous` knows it."""

    keys: dict[str, str]
    """{variable of make: key of the override}; ARGS goes to every verb as it stands."""

    help: str


TRAIN = {
    "DATASET": "experiment",
    "BACKBONE": "model/backbone",
    "HEAD": "model/head",
    "SEED": "seed",
    "ROOT": "data.root",
}
SWEEP = {"SWEEP": "sweeps", "DATASET": "small", "SEED": "seed", "ROOT": "data.root"}
RUN, CRF, OUT = {"RUN": "run"}, {"CRF": "crf"}, {"OUT": "out"}

VERBS = {
    "train": Verb("train", TRAIN, 'train DATASET=shapes [BACKBONE= HEAD= SEED= ARGS="…"], and show the result'),
    "sweep": Verb(
        "sweep", SWEEP, 'train a table of a paper: SWEEP=v2_table3 [DATASET=shapes SEED= ARGS="dry_run=true"]'
    ),
    "report": Verb(
        "report", SWEEP, 'its table and page, also while it runs: SWEEP=v2_table3 [DATASET= SEED= ARGS="keep=true"]'
    ),
    "dashboard": Verb(
        "dashboard", SWEEP, "its page in W&B, or the page's specification: SWEEP=v2_table3 [DATASET= SEED= ARGS=]"
    ),
    "sync": Verb("sync", {}, 'send W&B the runs that were logged offline [ARGS="runs=…"]'),
    "reproduce": Verb(
        "reproduce", RUN | OUT, "repeat a run from its folder alone: is the result the same? RUN=runs/… [OUT=]"
    ),
    "doctor": Verb("doctor", OUT, "what a bug report needs, and what looks wrong here [OUT=]"),
    "describe": Verb(
        "describe",
        {"BACKBONE": "model/backbone", "HEAD": "model/head"} | OUT,
        "a network's layers, FLOPs, receptive field [BACKBONE= HEAD= OUT=]",
    ),
    "evaluate": Verb(
        "evaluate", RUN | CRF, 'score a trained network, before and after a CRF: RUN=runs/… [CRF=v1 ARGS="split=val"]'
    ),
    "compare": Verb(
        "compare",
        {"A": "a", "B": "b"} | CRF,
        'is run B better than run A, or is it noise? A=runs/… B=runs/… [CRF=v1 ARGS="split=val"]',
    ),
    "worst": Verb(
        "worst", RUN | CRF, 'the pictures that a network gets most wrong: RUN=runs/… [CRF=v1 ARGS="count=24"]'
    ),
    "tune-crf": Verb(
        "tune",
        RUN | {"SEARCH": "search"},
        'search for the CRF\'s parameters as the papers do: RUN=runs/… [SEARCH=v1 ARGS="pictures=100"]',
    ),
    "predict": Verb(
        "predict",
        RUN | {"IMAGES": "images"} | OUT | CRF,
        "segment pictures or videos: RUN=runs/… IMAGES=photo.jpg, a folder or 'a/**/*.jpg' [OUT= CRF=]",
    ),
    "demo": Verb(
        "demo", RUN | CRF, 'a page to drop pictures on, with sliders for the CRF: RUN=runs/… [CRF=v1 ARGS="port=8000"]'
    ),
    "crf": Verb(
        "refine",
        {"IMAGE": "image", "LABEL": "label", "PROBS": "probs"} | CRF,
        'refine any label map: IMAGE=a.jpg LABEL=a.png or PROBS=a.npy [CRF=v1 ARGS="steps=true"]',
    ),
    "export": Verb("export", RUN | OUT, 'a trained network as one file: RUN=runs/… [OUT= ARGS="format=onnx"]'),
    "submit": Verb(
        "submit",
        RUN | {"CHECK": "check"} | CRF | {"DATASET": "data", "ROOT": "root"},
        'the archive for a server: RUN=runs/… [ROOT= CRF= ARGS="split=val"], or CHECK=a.tgz DATASET=voc',
    ),
    "prepare": Verb(
        "prepare",
        {"DATASET": "data", "ROOT": "root"},
        'make a dataset from its archives: DATASET=voc [ROOT= ARGS="archives=~/Downloads download=true"]',
    ),
    "check-data": Verb(
        "check-data",
        {"DATASET": "data", "ROOT": "data.root"},
        'check every file of a dataset, count its classes: DATASET=voc [ROOT= ARGS="subset=true"]',
    ),
    "browse": Verb(
        "browse", TRAIN, 'pictures as the network will see them: DATASET=voc [ROOT= SEED= ARGS="count=24 split=val"]'
    ),
}

OF_SWEEPS = ("sweep", "report", "dashboard")
ON_SHAPES = ("train", "browse", "prepare", "check-data")
"""Verbs whose dataset is the embedded one by default."""

OPTIONAL = {"demo": ("gradio", "gradio==6.31.0"), "dashboard": ("wandb_workspaces", "wandb-workspaces==0.4.13")}
"""{verb: (module, requirement)}: installed the first time that the verb is asked for."""


# ---- variables ------------------------------------------------------------------------------------------------------
def variables(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of a recipe: those on make's command line, else those of the environment.

    Make puts the former into the environment too, but expands `$` in them; in MAKEFLAGS they are as they were typed.
    """
    return dict(env) | dict(_command_line(env.get("MAKEFLAGS", "")))


def _command_line(flags: str) -> Iterator[tuple[str, str]]:
    """The definitions behind `--`, where `\\` stands before blanks and itself, and `$$` for `$`."""
    _, _, definitions = f" {flags}".partition(" -- ")
    for each in re.findall(r"(?:\\.|[^\\\s])+", definitions, re.DOTALL):
        name, _, value = re.sub(r"\\(.)", r"\1", each, flags=re.DOTALL).replace("$$", "$").partition("=")
        yield name.rstrip(":+?"), value


def overrides(target: str, given: Mapping[str, str]) -> list[str]:
    """`atrous` is called with this for `make target NAME=value …`."""
    verb = VERBS[target]
    values = {name: given[name] for name in verb.keys if given.get(name)}
    if target in ON_SHAPES:
        values.setdefault("DATASET", "shapes")
    if target in OF_SWEEPS and "DATASET" in values:
        check_small(values["DATASET"])
        values.setdefault("SEED", "0,1")
    try:
        more = shlex.split(given.get("ARGS", ""))
    except ValueError as error:
        raise ValueError(f"ARGS={given['ARGS']} can't be read ({error})") from None
    return [verb.name, *(f"{key}={values[name]}" for name, key in verb.keys.items() if name in values), *more]


def check_small(dataset: str) -> None:
    """A sweep on another dataset would not be the paper's table, and take weeks."""
    small = sorted(path.stem for path in (CONF / "small").glob("*.yaml"))
    if dataset not in small:
        raise ValueError(f"DATASET={dataset}: a sweep takes {' or '.join(small)}, or without DATASET its own data")


# ---- what make runs -------------------------------------------------------------------------------------------------
def help_lines() -> list[str]:
    return [f"  make {target:12} {verb.help}" for target, verb in VERBS.items()]


def install(module: str, requirement: str) -> None:
    """Into this environment, with everything else as the lock has it."""
    if find_spec(module) is None:
        print(f"Installing {requirement} (only this once) …", flush=True)
        uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--python", sys.executable]
        lock = ["--compile-bytecode", "--override", str(CLONE / "requirements.lock")]
        subprocess.run([*uv, *lock, requirement], check=True)


def main(target: str) -> None:
    if target == "help":
        print("\n".join(help_lines()))
        return
    try:
        command = overrides(target, variables(os.environ))
        if target in OPTIONAL:
            install(*OPTIONAL[target])
    except (ValueError, subprocess.CalledProcessError) as error:
        print(f"make {target}: {error}", file=sys.stderr)
        sys.exit(2)
    become(command)


def become(command: list[str]) -> None:
    """So that signals and the exit code are those of the verb."""
    script = str(Path(sys.executable).with_name("atrous"))
    os.execv(script, [script, *command])


if __name__ == "__main__":
    main(sys.argv[1])
