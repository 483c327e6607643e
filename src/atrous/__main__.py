"""`atrous VERB overrides…`: find the verb, import only that, and say in a line what went wrong."""

from __future__ import annotations

import logging
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from threading import Thread
from typing import Any

VERBS = {
    "train": ("atrous.run.train:train", "config", "train a network, or go on training it, and score it"),
    "sweep": (
        "atrous.command.sweep:sweep",
        "sweep",
        "many runs by one command, packed onto the devices, and their table",
    ),
    "report": (
        "atrous.command.report:report",
        "sweep",
        "a sweep's table beside the published numbers, and its page, also while it runs",
    ),
    "evaluate": (
        "atrous.command.evaluate:evaluate",
        "evaluate",
        "a trained network scored on a split, before and after a CRF",
    ),
    "compare": (
        "atrous.command.compare:compare",
        "compare",
        "two runs on the same pictures: is one better, or is it noise?",
    ),
    "worst": ("atrous.command.worst:worst", "worst", "the pictures on which a trained network fails most, on a page"),
    "tune": ("atrous.command.tune:tune", "tune", "the papers' search for the CRF's parameters, on part of a split"),
    "describe": ("atrous.command.describe:describe", "describe", "a network's layers, FLOPs and receptive field"),
    "export": (
        "atrous.command.export:export",
        "export",
        "a trained network as one file: safetensors, ONNX, torch.export",
    ),
    "predict": (
        "atrous.command.predict:predict",
        "predict",
        "your own pictures and videos, segmented by a trained network",
    ),
    "refine": ("atrous.command.refine:refine", "refine", "a label map or probabilities from anywhere, by the CRF"),
    "submit": ("atrous.command.submit:submit", "submit", "predictions as a benchmark's server takes them, and checked"),
    "demo": ("atrous.command.demo:demo", "demo", "a page in the browser: drop a picture, see what a network sees"),
    "browse": ("atrous.command.browse:browse", "browse", "pictures as the network will see them: a sheet and a page"),
    "prepare": ("atrous.command.prepare:prepare", "prepare", "a dataset: from its archives to the folder to train on"),
    "dashboard": (
        "atrous.command.dashboard:dashboard",
        "sweep",
        "a sweep's page in W&B: curves, table, pictures",
    ),
    "sync": ("atrous.command.sync:sync", "sync", "W&B runs that were kept on this disk, sent to the server"),
    "reproduce": ("atrous.command.reproduce:reproduce", "reproduce", "a run repeated from its folder, and compared"),
    "doctor": ("atrous.command.doctor:doctor", "doctor", "what a bug report needs, and what looks wrong here"),
    "check-data": (
        "atrous.command.check_data:check_data",
        "check_data",
        "a dataset: every file looked at, its statistics, class weights",
    ),
}

OF_SWEEPS = ("sweep", "report", "dashboard")
"""Verbs that take the overrides of `atrous sweep`. Hydra makes a configuration of each of a sweep's runs, not one of
all: these functions get the overrides themselves, as does `around` of atrous.command.sweep."""

HELP = """\
atrous VERB [overrides …]     DeepLab v1 and v2: train, ablate, use

{verbs}

  atrous train experiment=shapes model/head=aspp_l seed=1      groups with a slash, values with a dot
  atrous train --help                                          every group and value of a verb
  atrous train experiment=shapes --cfg job                     the configuration that a command means
  atrous train --config-dir conf experiment=mine               with choices and classes of your own (docs/extend.md)
"""


@dataclass
class Request:
    """A command line, read: the verb, its overrides, and the flags that are Hydra's."""

    verb: str
    config_name: str
    parser: ArgumentParser
    flags: Namespace

    @property
    def overrides(self) -> list[str]:
        return self.flags.overrides

    @property
    def only_explains(self) -> bool:
        """Help, or what Hydra says of itself: nothing is composed that must be right."""
        flags = self.flags
        return bool(flags.help or flags.hydra_help or flags.info or flags.shell_completion)

    @property
    def is_plain(self) -> bool:
        """One run, without a flag that Hydra answers itself."""
        handled = ("overrides", "run", "config_dir")  # by us
        flags = [value for key, value in vars(self.flags).items() if key not in handled]
        return not any(flags) and not any("hydra" in text.partition("=")[0] for text in self.overrides)


def main(argv: Sequence[str] | None = None) -> int:
    _watch_lifeline()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(verbs="\n".join(f"  {verb:10} {purpose}" for verb, (_, _, purpose) in VERBS.items())))
        return 0
    if arguments[0] == "--version":
        from atrous import __version__

        print(f"atrous {__version__}")
        return 0
    if arguments[0] not in VERBS:
        from difflib import get_close_matches

        near = get_close_matches(arguments[0], VERBS, n=1) or list(VERBS)
        return _complain(f"there is no verb {arguments[0]!r}; did you mean {near[0]}? (atrous --help lists them)")
    return _run(parse(arguments[0], arguments[1:]))


def _watch_lifeline() -> None:
    """Save and end a run that a sweep started when the sweep's process is gone, however that went: then the other end
    of a pipe closes."""
    pipe = os.environ.pop("ATROUS_LIFELINE", None)
    if pipe is None:
        return

    def wait() -> None:
        os.read(int(pipe), 1)
        os.killpg(os.getpgrp(), signal.SIGTERM)

    Thread(target=wait, daemon=True).start()


def _run(request: Request) -> int:
    """Validate and dispatch; return the exit code."""
    from atrous.config.folders import config_dir

    try:
        with config_dir(request.flags.config_dir):
            read_overrides(request)
            problem = None if request.only_explains else problem_of(request)
            if problem is None:
                dispatch(request)
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:  # a signal's, a sweep's
        if isinstance(stop.code, str):  # Python prints it
            raise
        return stop.code or 0
    except Exception as error:
        from atrous.config.error import message_of

        message = None if os.environ.get("ATROUS_TRACEBACK") else message_of(error)
        if message is None:
            raise
        return _complain(message[0], request.verb, message[1])
    return 0 if problem is None else _complain(problem, request.verb)


# ---- parse ----------------------------------------------------------------------------------------------------------
def parse(verb: str, arguments: list[str]) -> Request:
    from hydra import version
    from hydra._internal.utils import get_args_parser

    version.setbase("1.3")
    parser = get_args_parser()
    parser.prog = f"atrous {verb}"
    flags = parser.parse_intermixed_args(arguments)
    if verb == "train" and flags.multirun:
        verb = "sweep"  # Hydra's users know it as that
    return Request(verb, VERBS[verb][1], parser, flags)


def read_overrides(request: Request) -> None:
    """Bring the overrides into Hydra's grammar."""
    from atrous.config.override import absences, groups_of, offer_sweeps, quote_paths, read_choices

    if request.verb in OF_SWEEPS:
        offer_sweeps()
    name = request.config_name
    overrides = absences(quote_paths(read_choices(request.overrides, name)), name)
    has_experiment = any(text.startswith("experiment=") for text in overrides)
    if request.flags.help and not has_experiment and "experiment" in groups_of(name):
        overrides.append("experiment=shapes")  # so that there is something to show
    request.flags.overrides = overrides


# ---- validate -------------------------------------------------------------------------------------------------------
def problem_of(request: Request) -> str | None:
    from atrous.config.override import first_choices
    from atrous.config.suggest import problem_with

    return problem_with([*first_choices(request.overrides), *request.overrides], request.config_name)


# ---- dispatch -------------------------------------------------------------------------------------------------------
def dispatch(request: Request) -> None:
    """Call the verb's function: with a configuration, or a sweep's with the overrides."""
    if request.verb not in OF_SWEEPS or request.flags.cfg or request.only_explains:
        run_hydra(request)
    elif request.verb == "sweep":
        from atrous.command.sweep import around

        _open_console()
        with around(request.overrides, partial(call, "sweep")) as (request.flags.overrides, task):
            run_hydra(request, task)
    else:
        call(request.verb, request.overrides)


def call(verb: str, argument: Any) -> Any:
    """Import the verb's module and call its function."""
    _open_console()
    module, function = VERBS[verb][0].split(":")
    return getattr(import_module(module), function)(argument)


def run_hydra(request: Request, sweep_task: Callable[[Any], Any] | None = None) -> None:
    """Do what `@hydra.main` does, but with the arguments after the verb, and with errors raised rather than printed.
    sys.argv stays whole, because Lightning starts the other processes of a DDP run from it."""
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import _run_hydra
    from hydra.core.global_hydra import GlobalHydra

    from atrous.config.folders import search_path
    from atrous.config.place import CONF

    os.environ["HYDRA_FULL_ERROR"] = "1"
    if request.verb == "sweep" or request.flags.multirun:  # its launcher wants to know of a failure
        run = sweep_task or partial(call, request.verb)
        _run_hydra(request.flags, request.parser, run, str(CONF), request.config_name)
        return
    task = HydraTask(request.verb)
    if request.is_plain:
        # The usual case, composed once: Hydra's own does so twice, to learn `hydra.mode`.
        try:
            Hydra.create_main_hydra2("atrous", search_path()).run(request.config_name, task, request.overrides)
        finally:
            GlobalHydra.instance().clear()
    else:
        _run_hydra(request.flags, request.parser, task, str(CONF), request.config_name)
    if task.error is not None:
        raise task.error


class HydraTask:
    """A verb's function as Hydra calls it. Its error is kept, to be raised when Hydra is done: Hydra would print a
    preamble of its own."""

    def __init__(self, verb: str):
        self.verb = verb
        self.error: Exception | None = None

    def __call__(self, cfg: Any) -> Any:
        try:
            return call(self.verb, cfg)
        except Exception as error:
            self.error = error
            return None


def _open_console() -> None:
    """Messages as they are, to standard output, from the first process of a run only."""
    logging.raiseExceptions = False  # `atrous train … | head` is no error
    logger = logging.getLogger("atrous")
    logger.propagate = False
    logger.handlers.clear()
    logger.setLevel(logging.ERROR if int(os.environ.get("LOCAL_RANK", 0)) else logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stdout))


def _complain(message: str, verb: str = "", code: int = 2) -> int:
    print(f"atrous{' ' + verb if verb else ''}: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
