"""A module that says what it is given and ends as it is asked to: `python -m probe END`."""

import json
import os
import signal
import subprocess
import sys


def given() -> dict:
    return {
        "argv": sys.argv[1:],
        "name": os.path.basename(sys.argv[0]),
        "module": __spec__.name if __spec__ else None,
        "cwd": os.getcwd(),
        "path": [sys.path[0], *(os.environ.get("PYTHONPATH", "").split(os.pathsep))],
        "environment": dict(os.environ),
        "leader": os.getpgrp() == os.getpid(),
        "session": os.getsid(0) == os.getpid(),
        "cores": sorted(os.sched_getaffinity(0)),
        "stdin": sys.stdin.read(),
        "parent": os.getppid(),
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    }


def main(end: str) -> None:
    print(json.dumps(given()), flush=True)
    print("to the other", file=sys.stderr)
    if end == "pipe":
        os.write(int(os.environ["PIPE"]), b"through a pipe")
    elif end == "nested":
        child = subprocess.run([sys.executable, "-m", "probe", "5"], capture_output=True, text=True, input="")
        print(child.returncode, json.loads(child.stdout)["parent"] == os.getpid())
    elif end == "raise":
        raise KeyError("a bug")
    elif end == "text":
        sys.exit("said at the end")
    elif end.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[end])
        signal.pause()
    else:
        sys.exit(int(end))


if __name__ == "__main__":
    main(sys.argv[1])
