"""`atrous doctor`: print what a bug report needs, and what looks wrong on this machine."""

from __future__ import annotations

import logging
import os
import platform
import re
import resource
import shutil
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
from omegaconf import DictConfig, OmegaConf
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from atrous import __version__
from atrous.config.build import build_files
from atrous.config.place import CLONE, CONF
from atrous.data.files import Files
from atrous.disk import write_whole
from atrous.machine import cores
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
    """A line for each problem, with its cure."""


def doctor(cfg: DictConfig) -> list[Section]:
    """Exit code 1 where something looks wrong."""
    runs = Path(str(cfg.runs)).expanduser()
    sections = [program(), packages(), devices(), machine(runs), wandb_login(), datasets()]
    text = "\n".join(lines(sections))
    log.info(text)
    if cfg.out is not None:
        write_whole(Path(str(cfg.out)).expanduser(), f"{text}\n".encode())
    if any(section.wrong for section in sections):
        raise SystemExit(1)
    return sections


def lines(sections: list[Section]) -> Iterator[str]:
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
    """Compared with the lock in a clone, elsewhere with what the package itself requires."""
    lock = CLONE / "requirements.lock"
    source, wanted = ("requirements.lock", read_lock(lock)) if lock.exists() else ("atrous's requirements", required())
    says = "requirements.lock says" if lock.exists() else "atrous's requirements say"
    installed = installed_versions()
    facts = [("compared with", source)]
    facts += [(name, compare_version(installed.get(name), wanted.get(name))) for name in KEY_PACKAGES]
    facts.append(("pydensecrf", "built" if find_spec("pydensecrf") else "not built: the native CRF serves"))
    wrong = []
    for name, versions in sorted(wanted.items()):
        version = installed.get(name)
        if version is not None and not versions.contains(version, prereleases=True):
            cure = "make setup installs that" if lock.exists() else f"pip install '{name}{versions}'"
            wrong.append(f"{name} is {version}, {says} {versions}: {cure}")
        elif version is None and not lock.exists():  # the lock is also for other platforms and for development
            wrong.append(f"{name} is not installed: pip install '{name}{versions}'")
    return Section("packages", facts, wrong)


def installed_versions() -> dict[str, str]:
    """{package: version}; of two in different folders the one that Python imports."""
    in_order = [(each.metadata["Name"], each.version) for each in metadata.distributions()]
    return {canonicalize_name(name): version for name, version in reversed(in_order) if name}


def read_lock(path: Path) -> dict[str, SpecifierSet]:
    """{package: its version}, without packages of which several Pythons have a line each."""
    pins = re.findall(r"^([\w.-]+)==([^\s;\\]+)", path.read_text(), re.MULTILINE)
    names = [canonicalize_name(name) for name, _ in pins]
    pinned = zip(names, (version for _, version in pins))
    return {name: SpecifierSet(f"=={version}") for name, version in pinned if names.count(name) == 1}


def required() -> dict[str, SpecifierSet]:
    """{package: its versions} as the installed package declares them, without its extras."""
    try:
        requirements = map(Requirement, metadata.requires("atrous") or [])
    except metadata.PackageNotFoundError:  # run from its source, without an installation
        return {}
    here = [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    return {canonicalize_name(each.name): each.specifier for each in here}


def compare_version(version: str | None, wanted: SpecifierSet | None) -> str:
    fits = wanted is None or (version is not None and wanted.contains(version, prereleases=True))
    return f"{version or 'not installed'}" + ("" if fits else f" (wanted: {wanted})")


# ---- machine --------------------------------------------------------------------------------------------------------
def devices() -> Section:
    cuda = torch.version.cuda or "none: torch was built for the CPU"
    facts = [("torch", torch.__version__), ("its CUDA", cuda)]
    if torch.version.cuda:
        facts.append(("cuDNN", str(torch.backends.cudnn.version())))
    if torch.cuda.is_available():
        facts.append(("NCCL", ".".join(map(str, torch.cuda.nccl.version()))))
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        facts.append((f"GPU {i}", f"{gpu.name}, {size(gpu.total_memory)}"))
    driver = Path("/proc/driver/nvidia/version").exists()
    wrong = []
    if driver and not torch.cuda.is_available():
        built_for_cpu = "install a torch built for CUDA (in a clone: make setup TORCH_BACKEND=auto)"
        cure = "nvidia-smi tells more" if torch.version.cuda else built_for_cpu
        wrong.append(f"there is an NVIDIA driver, but torch sees no GPU: {cure}")
    return Section("devices", facts, wrong)


def machine(runs: Path) -> Section:
    facts, wrong = [("cores", f"{cores()} of {os.cpu_count()}"), ("memory", memory())], []
    place = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    facts.append(("free for runs", f"{size(free)} at {runs}"))
    if free < LEAST_DISK:
        wrong.append(f"{size(free)} are free for {runs}/: run_dir=… on another disk, or delete what you don't need")
    if not os.access(place, os.W_OK):
        wrong.append(f"{place} can't be written: run_dir=… takes another place")
    shm = Path("/dev/shm")  # Linux alone has it
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
    """How many files a process may open; None: any number."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def wandb_login() -> Section:
    """Read from the environment and ~/.netrc; no server is asked."""
    mode, facts, wrong = os.environ.get("WANDB_MODE"), [], []
    facts.append(("mode", f"{mode}, by WANDB_MODE" if mode else "online with a login, else offline"))
    server = os.environ.get("WANDB_BASE_URL")
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        hosts = list(netrc(path).hosts) if path.exists() else []
    except (NetrcParseError, OSError) as error:
        hosts = []
        wrong.append(f"{path} can't be read ({error}): `wandb login` writes a new one")
    own = {"api.forge.coreweave.com", urlparse(server or "").hostname}
    known = [host for host in hosts if "wandb" in host or host in own]
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
        node.pop("defaults", None)
        if isinstance(node, dict) and "root" in node and "_target_" in node:
            fact, problems = examine_dataset(node)
            facts.append((path.stem, fact))
            wrong += [f"{path.stem}: {problem}" for problem in problems]
    return Section("datasets", facts, wrong)


def examine_dataset(node: dict[str, Any]) -> tuple[str, list[str]]:
    """Return what is at the dataset's usual place, and how its lists differ from the published ones."""
    root = Path(node["root"])
    if not root.expanduser().is_dir():
        return f"not at {root}", []
    try:
        files = build_files(node)
    except (ValueError, OSError) as error:
        return f"at {root}, but can't be read", [str(error).splitlines()[0]]
    facts, wrong = [], []
    for name in dict.fromkeys([*files.train.split("+"), *files.val.split("+"), *files.published]):
        fact, problem = examine_list(files, name)
        facts += [fact] if fact else []
        wrong += [problem] if problem else []
    return f"at {root}: {', '.join(facts) or 'no list'}", wrong


def examine_list(files: Files, name: str) -> tuple[str, str]:
    """Return the list's length, and how it differs from the published one."""
    try:
        ids = [pair.name for pair in files.list_pairs(name)]
    except (ValueError, OSError):
        return "", ""  # not every list is everywhere
    known = files.published.get(name)
    if known is None:
        return f"{name} {len(ids):,}", ""
    same = known.difference(ids) is None
    fact = f"{name} {len(ids):,} ({'as' if same else 'NOT as'} published)"
    cure = f"atrous check-data data={files.name} tells more"
    return fact, "" if same else f"the list {name} is not the published one of {known.count:,} pictures: {cure}"
