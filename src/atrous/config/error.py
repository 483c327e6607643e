"""Errors that a user can mend, as a message without a traceback."""

from __future__ import annotations

import re
from pathlib import Path

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from atrous.config.place import PACKAGE


def message_of(error: BaseException) -> tuple[str, int] | None:
    """(message, exit code) for what a user can mend: an error that our own code raised on purpose. None for a bug,
    which keeps its traceback."""
    if isinstance(error, InstantiationException):
        where = str(error).rpartition("full_key: ")[2].strip()
        cause = error.__cause__
        if isinstance(cause, TypeError) and "argument" in str(cause):
            return f"`{where}`: {cause}", 2
        if "Error locating target" in str(error):
            # A module of a user's own is usually beside the folder of `--config-dir`, which this command did without.
            remedy = "--config-dir=… finds modules beside that folder, PYTHONPATH any others"
            return f"`{where}._target_`: {str(error).split(',')[0]}: {remedy}", 2
        return None if cause is None else message_of(cause)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        deepest: BaseException = error
        while deepest.__cause__ is not None:
            deepest = deepest.__cause__
        lines = [*str(error).splitlines()[:2], *str(deepest).splitlines()[:2]]
        return "\n".join(dict.fromkeys(line for line in lines if line)), 2
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):  # the CPU's
        cures = "device_batch=<fewer> (the rest is accumulated), augment.crop=<smaller>, trainer.precision=bf16-mixed"
        full = f"the device's memory is full ({str(error).splitlines()[0]})"
        return f"{full}\nwhat helps: in training {cures}; else slide.crop=513 (pictures in tiles)", 1
    in_worker = re.match(r"Caught (\w+) in DataLoader worker", str(error))
    if in_worker:
        files = re.findall(r'File "([^"]+)"', str(error))
        ours = bool(files) and files[-1].startswith(str(PACKAGE))
        message = re.split(rf"\n(?:[\w.]+\.)?{in_worker[1]}: ", str(error))[-1].strip()
    else:
        ours, message = _innermost_file(error).startswith(str(PACKAGE)), str(error)
    if ours and isinstance(error, (ValueError, OSError)):
        return message, 2
    if ours and isinstance(error, FloatingPointError):
        return message, 1
    return None


def _innermost_file(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(Path(trace.tb_frame.f_code.co_filename).resolve())
