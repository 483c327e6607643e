"""`atrous VERB overrides…`: finds the verb, imports only that, and tells what went wrong in a line."""

from __future__ import annotations

import logging
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
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
"""Verbs that are told a sweep in the words of `atrous sweep`. Hydra makes a configuration of each of its runs, not one
of all: these functions are called with the words, as `around` of atrous.command.sweep is."""

HELP = """\
atrous VERB [overrides …]     DeepLab v1 and v2: train, ablate, use

{verbs}

  atrous train experiment=shapes model/head=aspp_l seed=1      groups with a slash, values with a dot
  atrous train --help                                          every group and value of a verb
  atrous train experiment=shapes --cfg job                     the configuration that a command means
"""


def main(argv: Sequence[str] | None = None) -> int:
    _hold_the_lifeline()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP.format(verbs="\n".join(f"  {verb:10} {told}" for verb, (_, _, told) in VERBS.items())))
        return 0
    if words[0] == "--version":
        from atrous import __version__

        print(f"atrous {__version__}")
        return 0
    if words[0] not in VERBS:
        from difflib import get_close_matches

        near = get_close_matches(words[0], VERBS, n=1) or list(VERBS)
        return _complain(f"there is no verb {words[0]!r}; did you mean {near[0]}? (atrous --help lists them)")
    return _run(words[0], words[1:])


def _hold_the_lifeline() -> None:
    """A run that a sweep started is asked to save and end when the sweep's process is gone, however it went: then the
    other end of a pipe closes."""
    pipe = os.environ.pop("ATROUS_LIFELINE", None)
    if pipe is None:
        return

    def wait() -> None:
        os.read(int(pipe), 1)
        os.killpg(os.getpgrp(), signal.SIGTERM)

    Thread(target=wait, daemon=True).start()


def _run(verb: str, words: list[str]) -> int:
    from atrous.config.override import absences, first_choices, from_files, groups_of, offer_sweeps, paths
    from atrous.config.suggest import problem_with

    parser = _parser(verb)
    asked = parser.parse_intermixed_args(words)
    if verb == "train" and asked.multirun:
        verb = "sweep"  # what Hydra's users know it as
    target, config_name, _ = VERBS[verb]
    if verb in OF_SWEEPS:
        offer_sweeps()
    try:
        asked.overrides = absences(paths(from_files(asked.overrides, config_name)), config_name)
    except ValueError as error:
        return _complain(str(error), verb)
    chosen = any(o.startswith("experiment=") for o in asked.overrides)
    if asked.help and not chosen and "experiment" in groups_of(config_name):
        asked.overrides.append("experiment=shapes")  # so that there is something to show
    if not (asked.help or asked.hydra_help or asked.info or asked.shell_completion):
        problem = problem_with([*first_choices(asked.overrides), *asked.overrides], config_name)
        if problem:
            return _complain(problem, verb)

    failures: list[Exception] = []

    def work(told: Any) -> Any:
        _open_console()
        module, function = target.split(":")
        return getattr(import_module(module), function)(told)

    def job(cfg: Any) -> Any:
        try:
            return work(cfg)
        except Exception as error:
            if verb == "sweep" or asked.multirun:
                raise
            failures.append(error)  # told below: Hydra would print a preamble of its own
            return None

    try:
        if verb not in OF_SWEEPS or asked.cfg or asked.help or asked.info or asked.hydra_help or asked.shell_completion:
            _hydra(job, parser, asked, config_name)
        elif verb == "sweep":
            from atrous.command.sweep import around

            _open_console()
            with around(asked.overrides) as asked.overrides:
                _hydra(job, parser, asked, config_name)
        else:
            work(asked.overrides)
        if failures:
            raise failures[0]
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
        return _complain(message[0], verb, message[1])
    return 0


def _parser(verb: str) -> ArgumentParser:
    from hydra import version
    from hydra._internal.utils import get_args_parser

    version.setbase("1.3")
    parser = get_args_parser()
    parser.prog = f"atrous {verb}"
    return parser


def _hydra(job: Callable[[Any], Any], parser: ArgumentParser, asked: Namespace, config_name: str) -> None:
    """What `@hydra.main` does, but with the words after the verb, and with errors raised rather than printed. sys.argv
    stays whole, because Lightning starts the other processes of a DDP run from it."""
    from hydra._internal.utils import _run_hydra, create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    from atrous.config.place import CONF

    os.environ["HYDRA_FULL_ERROR"] = "1"
    if not _is_plain(asked):
        _run_hydra(asked, parser, job, str(CONF), config_name)
        return
    # The same for what is asked nearly always. It composes once: Hydra's own does so twice, to learn `hydra.mode`.
    from hydra._internal.hydra import Hydra

    try:
        hydra = Hydra.create_main_hydra2("atrous", create_config_search_path(str(CONF)))
        hydra.run(config_name, job, asked.overrides)
    finally:
        GlobalHydra.instance().clear()


def _is_plain(asked: Namespace) -> bool:
    """One run, and nothing asked of Hydra itself."""
    flags = {key: value for key, value in vars(asked).items() if key not in ("overrides", "run")}
    return not any(flags.values()) and not any("hydra" in o.partition("=")[0] for o in asked.overrides)


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
