"""Start `python -m atrous …` in a tenth of a second: fork a process that has imported everything.

After `install()`, subprocess.Popen asks the nursery of this process for each command `python -m <WARM>` or `python -c`.
It gets a child like any other: its own arguments, environment, working directory, descriptors, group and exit status.
What that child starts comes from a nursery of its own. Importing torch, Lightning and W&B takes 5 to 8 s; a test whose
subject is the start itself says `with cold():`.

Linux only: elsewhere processes start as usual.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import inspect
import json
import os
import pkgutil
import runpy
import signal
import site
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

WARM = ("atrous", "atrous.__main__", "torch.distributed.run", "submitit.core._submit", "submitit.local._local")
"""Modules that are run so; and `python -c`."""

LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LARGEST = 1 << 20  # bytes of a request
MOST = 64  # descriptors of a request
HIGH = 500  # descriptors from here on are ours
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")  # as Popen names them

_start = subprocess.Popen._execute_child  # type: ignore[attr-defined]
_lock = threading.Lock()
_nursery: tuple[int, socket.socket, Any] | None = None
"""Whose it is, by process number, the way to it, and its process where this one started it."""

_cold = False


# ---- who asks -------------------------------------------------------------------------------------------------------
def install() -> None:
    if LINUX:
        subprocess.Popen._execute_child = _execute_child  # type: ignore[attr-defined]


def close() -> None:
    """The nursery ends when the way to it does."""
    if _nursery is not None and _nursery[0] == os.getpid():
        _nursery[1].close()


@contextmanager
def cold() -> Iterator[None]:
    """Within, every process starts from nothing, as on a user's machine."""
    global _cold
    before, _cold = _cold, True
    try:
        yield
    finally:
        _cold = before


def _execute_child(self: Any, *args: Any) -> None:
    asked = inspect.signature(_start).bind(self, *args).arguments
    program = None if _cold or any(asked.get(key) for key in ("executable", "preexec_fn", "shell")) else _program(asked)
    if program is None:
        _start(self, *args)
        return
    pipes = [asked[key] for key in ("p2cread", "c2pwrite", "errwrite")]
    targets = {target: target if fd == -1 else fd for target, fd in enumerate(pipes)}
    targets |= {fd: fd for fd in asked["pass_fds"]}
    env = asked["env"]
    request = {
        "program": program[:2],
        "words": [os.fspath(word) for word in program[2:]],
        "cwd": os.fspath(asked["cwd"] or os.getcwd()),
        "env": {os.fsdecode(k): os.fsdecode(v) for k, v in (os.environ if env is None else env).items()},
        "targets": list(targets),
        "session": bool(asked.get("start_new_session")),
        "cores": sorted(os.sched_getaffinity(0)),
    }
    try:
        self.pid = _ask(request, list(targets.values()))
        self._child_created = True
    finally:
        self._close_pipe_fds(*(asked[key] for key in PIPES))


def _program(asked: dict[str, Any]) -> Sequence[str] | None:
    """Of `python [-u] -m module words…` or `python -c code words…` what follows python, if it is to be warm."""
    command = asked["args"]
    if isinstance(command, (str, bytes)) or os.fspath(command[0]) != sys.executable:
        return None
    program = [word for k, word in enumerate(command) if k and not (word == "-u" and k == 1)]
    return program if program[0] == "-c" or (program[0] == "-m" and program[1] in WARM) else None


def _ask(request: dict[str, Any], fds: list[int]) -> int:
    """The number of a new process, which is a child of this one."""
    global _nursery
    with _lock:
        if _nursery is None or _nursery[0] != os.getpid():
            _nursery = (os.getpid(), *_open())
        way = _nursery[1]
        socket.send_fds(way, [json.dumps(request).encode()], fds)
        return int(way.recv(64))


def _open() -> tuple[socket.socket, Any]:
    _adopt_orphans()
    actual, its = _way()
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LOCAL_RANK", "RANK")}
    with its:
        process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), str(its.fileno())],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=env | {"OMP_NUM_THREADS": "1"},
            pass_fds=[its.fileno()],
        )
    process.returncode = 0  # nobody waits for it: it ends when the way to it does
    return actual, process


def _way() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
    return ends


def _adopt_orphans() -> None:
    """A nursery's grandchildren become children of this process."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


# ---- the nursery ----------------------------------------------------------------------------------------------------
def import_everything() -> None:
    import atrous

    for module in pkgutil.walk_packages(atrous.__path__, "atrous."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("albumentations", "lightning", "matplotlib.backends.backend_agg", "torchvision", "wandb"):
        importlib.import_module(name)


def serve(way: socket.socket, end: Callable[[int], NoReturn]) -> dict[str, Any]:
    """Forks a child for each request; returns in each child, with what it is to be."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's, which is for those that run
    while True:
        message, fds, _, _ = socket.recv_fds(way, LARGEST, MOST)
        if not message:
            end(0)
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child:
                os.write(writing, str(child).encode())
                os._exit(0)
            for fd in (reading, writing):
                os.close(fd)
            return json.loads(message) | {"fds": _nurse(way, fds)}
        os.waitpid(between, 0)  # from here on the child is whose nursery this is
        way.send(os.read(reading, 64))
        for fd in (reading, writing, *fds):
            os.close(fd)


def _nurse(way: socket.socket, fds: list[int]) -> list[int]:
    """Gives the new process a nursery, which is its copy before anything has been done; then its descriptors, high."""
    global _nursery
    for each in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        each.detach()  # what a library made when it was imported goes with the first nursery, not with this process
    _adopt_orphans()
    actual, its = _way()
    parent = os.getpid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for each in (way, actual):
            each.close()
        for fd in fds:
            os.close(fd)
        if os.getppid() != parent:
            os._exit(0)
        become(serve(its, os._exit))
    way.close()
    its.close()
    high = socket.socket(fileno=fcntl.fcntl(actual, fcntl.F_DUPFD_CLOEXEC, HIGH))
    actual.close()
    _nursery = (os.getpid(), high, None)
    lifted = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH) for fd in fds]
    for fd in fds:
        os.close(fd)
    return lifted


def become(request: dict[str, Any]) -> NoReturn:
    """Everything that a process has of its own; then the module, as `python -m` runs it."""
    if request["session"]:
        os.setsid()
    for fd, target in zip(request["fds"], request["targets"], strict=True):
        os.dup2(fd, target)
        os.close(fd)
    os.chdir(request["cwd"])
    env = request["env"]
    os.environ.clear()
    os.environ.update(env)
    os.sched_setaffinity(0, request["cores"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    at_once = bool(env.get("PYTHONUNBUFFERED"))
    sys.stdout.reconfigure(line_buffering=at_once or sys.stdout.isatty(), write_through=at_once)  # type: ignore[union-attr]
    own = os.path.dirname(os.path.abspath(__file__))
    path = [entry for entry in sys.path if os.path.abspath(entry or ".") != own]
    option, program = request["program"]
    first = request["cwd"] if option == "-m" else ""
    sys.path[:] = [first, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *path]
    importlib.invalidate_caches()
    sys.modules.pop("sitecustomize", None)
    site.execsitecustomize()
    _import_again(env, len(request["cores"]))
    install()
    sys.argv = [option, *request["words"]]
    if program == "submitit.local._local":
        _wait_for_folder(request["words"][0])
    _end(_run(option, program))


def _wait_for_folder(pattern: str) -> None:
    """submitit makes a job's folder after it has started the job, and trusts that Python takes longer to start."""
    folder = Path(pattern.replace("%j", str(os.getpid())))
    while not folder.exists():
        time.sleep(0.01)


def _run(option: str, program: str) -> int:
    """The exit status that Python gives it."""
    try:
        if option == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            exec(compile(program, "<string>", "exec"), vars(sys.modules["__main__"]) | {"__spec__": None})
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """As Python ends, but without taking down the thousands of modules that are the nursery's too."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code & 0xFF)


def _import_again(env: dict[str, str], cores: int) -> None:
    """What libraries read and make when they are imported."""
    import numpy as np
    import torch
    from lightning_utilities.core import rank_zero
    from wandb.sdk.data_types._private import MEDIA_TMP

    np.random.seed()  # noqa: NPY002  # the global one: forks would all draw the same
    torch.set_num_threads(int(env.get("OMP_NUM_THREADS") or cores))
    MEDIA_TMP.__init__("wandb-media", dir=MEDIA_TMP.name)  # type: ignore[misc]  # a folder goes with who ends first
    ranks = (env[key] for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if key in env)
    rank_zero.rank_zero_only.rank = int(next(ranks, 0))  # type: ignore[attr-defined]


if __name__ == "__main__":
    way = socket.socket(fileno=int(sys.argv[1]))
    # The copy that the nursery runs is the one that what it starts knows.
    sys.modules["warm"] = sys.modules["__main__"]
    import_everything()
    assert len(os.listdir("/proc/self/task")) == 1, "a fork takes no threads along"
    gc.collect()
    gc.freeze()
    become(serve(way, _end))
