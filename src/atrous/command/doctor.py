"""`atrous doctor`: what a bug report needs, and what looks wrong on this machine."""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from atrous import __version__
from atrous.config.build import build_files
from atrous.config.place import CONF
from atrous.data.files import Files, ids_md5
from atrous.data.parallel import cores
from atrous.disk import write_whole
from atrous.run.folder import environment

log = logging.getLogger("atrous")

KEY_PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "wandb",
    "numpy",
    "pillow",
)
LEAST_DISK = 10e9
"""Bytes for runs: a ResNet-101's checkpoints take 0.8 GB, its kept probabilities more."""

LEAST_SHM = 1e9
LEAST_OPEN = 1024


class Section(NamedTuple):
    title: str
    facts: list[tuple[str, str]]
    wrong: list[str]
    """A line each, with its cure."""


def doctor(cfg: DictConfig) -> list[Section]:
    """Exit code 1 where something looks wrong."""
    runs = Path(str(cfg.runs)).expanduser()
    sections = [program(), packages(), devices(), machine(runs), wandb_here(), datasets()]
    told = "\n".join(write(sections))
    log.info(told)
    if cfg.out is not None:
        write_whole(Path(str(cfg.out)).expanduser(), f"{told}\n".encode())
    if any(section.wrong for section in sections):
        raise SystemExit(1)
    return sections


def write(sections: list[Section]) -> Iterator[str]:
    width = max(len(name) for section in sections for name, _ in section.facts)
    for section in sections:
        yield section.title
        yield from (f"  {name:{width}}  {value}" for name, value in section.facts)
        yield ""
    wrong = [line for section in sections for line in section.wrong]
    yield "looks wrong" if wrong else "nothing looks wrong"
    yield from (f"  {line}" for line in wrong)


# ---- program --------------------------------------------------------------------------------------------------------
def program() -> Section:
    about, diff = environment()
    changed = f", with {len(diff.splitlines())} lines of uncommitted changes" if diff else ""
    facts = [
        ("atrous", f"{__version__}, commit {about['commit'] or 'unknown'}{changed}"),
        ("Python", about["python"]),
        ("platform", about["machine"]),
    ]
    return Section("program", facts, [])


def packages() -> Section:
    lock = locked(CONF.parent / "requirements.lock")
    here = {normal(d.name): d.version for d in metadata.distributions()}
    facts = [(name, beside_lock(here.get(name), lock.get(name))) for name in KEY_PACKAGES]
    facts.append(("pydensecrf", "built" if find_spec("pydensecrf") else "not built: the native CRF serves"))
    others = [name for name in lock if name in here and here[name].split("+")[0] != lock[name].split("+")[0]]
    wrong = [f"{name} is {here[name]}, the lock says {lock[name]}: make setup installs that" for name in sorted(others)]
    return Section("packages", facts, wrong)


def locked(path: Path) -> dict[str, str]:
    """{package: version}; of a package that is there twice, for several Pythons, the line for this one is not known."""
    pinned = re.findall(r"^([\w.-]+)==([^\s;\\]+)", path.read_text(), re.MULTILINE) if path.exists() else []
    names = [normal(name) for name, _ in pinned]
    return {normal(name): version for name, version in pinned if names.count(normal(name)) == 1}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def beside_lock(here: str | None, lock: str | None) -> str:
    return f"{here or 'not installed'}" + (f" (the lock: {lock})" if lock not in (None, here) else "")


# ---- machine --------------------------------------------------------------------------------------------------------
def devices() -> Section:
    cuda = torch.version.cuda or "none: torch was built for the CPU"
    facts = [("torch", torch.__version__), ("its CUDA", cuda)]
    if torch.version.cuda:
        facts.append(("cuDNN", str(torch.backends.cudnn.version())))
    if torch.cuda.is_available():
        facts.append(("NCCL", ".".join(map(str, torch.cuda.nccl.version()))))
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        facts.append((f"GPU {i}", f"{about.name}, {size(about.total_memory)}"))
    driver = Path("/proc/driver/nvidia/version").exists()
    wrong = []
    if driver and not torch.cuda.is_available():
        cure = (
            "a torch built for CUDA: make setup TORCH_BACKEND=auto"
            if not torch.version.cuda
            else "nvidia-smi tells more"
        )
        wrong.append(f"there is an NVIDIA driver, but torch sees no GPU: {cure}")
    return Section("devices", facts, wrong)


def machine(runs: Path) -> Section:
    facts, wrong = [("cores", f"{cores()} of {os.cpu_count()}"), ("memory", memory())], []
    there = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    facts.append(("free for runs", f"{size(free)} at {runs}"))
    if free < LEAST_DISK:
        wrong.append(f"{size(free)} are free for {runs}/: run_dir=… on another disk, or delete what you don't need")
    if not os.access(there, os.W_OK):
        wrong.append(f"{there} can't be written: run_dir=… takes another place")
    shm = Path("/dev/shm")
    if shm.exists():
        total = shutil.disk_usage(shm).total
        facts.append(("/dev/shm", size(total)))
        if total < LEAST_SHM:
            wrong.append(
                f"/dev/shm has {size(total)}, little for loader processes: docker run --shm-size=8g, or workers=0"
            )
    limit = open_files()
    if limit is not None:
        facts.append(("open files", str(limit)))
        if limit < LEAST_OPEN:
            wrong.append(f"a process may open {limit} files: ulimit -n 4096")
    return Section("machine", facts, wrong)


def size(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def memory() -> str:
    try:
        return size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):  # not on every system
        return f"unknown on {platform.system()}"


def open_files() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def wandb_here() -> Section:
    """Asks no server."""
    from netrc import NetrcParseError, netrc
    from urllib.parse import urlparse

    mode, facts, wrong = os.environ.get("WANDB_MODE"), [], []
    facts.append(("mode", f"{mode}, by WANDB_MODE" if mode else "online with a login, else offline"))
    server = os.environ.get("WANDB_BASE_URL")
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        hosts = list(netrc(path).hosts) if path.exists() else []
    except (NetrcParseError, OSError) as error:
        hosts = []
        wrong.append(f"{path} can't be read ({error}): `wandb login` writes it anew")
    known = [
        h
        for h in hosts
        if "wandb" in h or h == "api.forge.coreweave.com" or (server and h == urlparse(server).hostname)
    ]
    key = "by WANDB_API_KEY" if os.environ.get("WANDB_API_KEY") else f"for {known[0]}, in {path}" if known else "none"
    facts.append(("login", key))
    if server:
        facts.append(("server", server))
    return Section("W&B", facts, wrong)


# ---- datasets -------------------------------------------------------------------------------------------------------
def datasets() -> Section:
    facts, wrong = [], []
    for path in sorted((CONF / "data").glob("*.yaml")):
        node: Any = OmegaConf.to_container(OmegaConf.load(path))
        if isinstance(node, dict) and "root" in node and "_target_" in node:
            told, problems = dataset(node)
            facts.append((path.stem, told))
            wrong += [f"{path.stem}: {problem}" for problem in problems]
    return Section("datasets", facts, wrong)


def dataset(node: dict[str, Any]) -> tuple[str, list[str]]:
    """What is at its usual place, and how its lists differ from the published ones."""
    root = Path(node["root"])
    if not root.expanduser().is_dir():
        return f"not at {root}", []
    try:
        files = build_files(node)
    except (ValueError, OSError) as error:
        return f"at {root}, but can't be read", [str(error).splitlines()[0]]
    lists, wrong = [], []
    for name in dict.fromkeys([*files.train.split("+"), *files.val.split("+"), *files.published]):
        told, problem = listed(files, name)
        lists += [told] if told else []
        wrong += [problem] if problem else []
    return f"at {root}: {', '.join(lists) or 'no list'}", wrong


def listed(files: Files, name: str) -> tuple[str, str]:
    """Its length, and what is not as published."""
    try:
        ids = [pair.name for pair in files.listed(name)]
    except (ValueError, OSError):
        return "", ""  # not every list is everywhere
    known = files.published.get(name)
    if known is None:
        return f"{name} {len(ids):,}", ""
    same = len(ids) == known.count and known.md5 in (None, ids_md5(ids))
    told = f"{name} {len(ids):,} ({'as' if same else 'NOT as'} published)"
    cure = f"atrous check-data data={files.name} tells more"
    return told, "" if same else f"the list {name} is not the published one of {known.count:,} pictures: {cure}"
