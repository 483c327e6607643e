"""Check before a run of several nodes trains that every process is there, and that a sum over all of them works."""

from __future__ import annotations

import logging
import os
import socket
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import distributed as dist

log = logging.getLogger("atrous")

SECONDS = 60.0
_open_stores: list[dist.Store] = []
"""Servers that stay open in this process, as they listen on the port that Lightning uses next."""


def preflight(trainer: L.Trainer) -> None:
    """Check the processes that torchrun or SLURM has started.

    Without it torch would wait up to half an hour for a missing one, and then not say which. ATROUS_PREFLIGHT is the
    number of seconds to wait, where 60 are too few.
    """
    if trainer.world_size == 1:
        return
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    if isinstance(environment, LightningEnvironment):  # it starts the others itself, after this
        if trainer.num_nodes > 1:
            raise ValueError(
                f"`trainer.num_nodes={trainer.num_nodes}`, but nothing has started the processes of the other nodes: "
                "start the command by torchrun or srun (docs/scale.md)"
            )
        return
    seconds = _seconds()
    rank, world = trainer.global_rank, trainer.world_size
    store = open_store(environment.main_address, environment.main_port, rank, world, seconds)
    device: torch.device = trainer.strategy.root_device
    name = str(device) if device.type == "cpu" else f"{device} {torch.cuda.get_device_name(device)}"
    everyone = roll_call(store, rank, world, f"{socket.gethostname()}  {name}", seconds)
    if rank == 0:
        log.info("\n".join(["rank  host  device", *(f"{i:4}  {about}" for i, about in enumerate(everyone))]))
    sum_over_all(store, rank, world, device, seconds)


def open_store(host: str, port: int, rank: int, world: int, seconds: float) -> dist.Store:
    """Connect to the store, which rank 0 holds unless torchrun's agent does."""
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    server = rank == 0 and not agent
    limit = timedelta(seconds=seconds)
    try:
        store = dist.TCPStore(host, port, world, server, limit, wait_for_workers=False, multi_tenant=True)
    except RuntimeError as error:
        if server:
            raise ValueError(
                f"rank 0 can't listen on {host}:{port} ({str(error).splitlines()[0]}): MASTER_PORT=… takes another port"
            ) from None
        who = "torchrun's agent" if agent else "rank 0"
        raise ValueError(
            f"rank {rank} on {socket.gethostname()} found no {who} at {host}:{port} within {seconds:g} s: has it been "
            "started, and can this host reach it? (MASTER_ADDR, MASTER_PORT)"
        ) from None
    _open_stores.append(store)
    return dist.PrefixStore(f"preflight/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def roll_call(store: dist.Store, rank: int, world: int, about: str, seconds: float) -> list[str]:
    """Return what each rank says about itself. Rank 0 waits for all, and lets the others know who is missing."""
    store.set(f"here/{rank}", about)
    keys = [f"here/{other}" for other in range(world)]
    if rank == 0:
        _wait(store, keys, seconds)
        missing = [other for other, key in enumerate(keys) if not store.check([key])]
        store.set("missing", ",".join(map(str, missing)))
        if missing:  # the store ends with this process: not before the others know
            _wait(store, [f"informed/{other}" for other in range(1, world) if other not in missing], 5.0)
    elif not _wait(store, ["missing"], seconds + 5.0):
        raise ValueError(f"rank 0 is gone: rank {rank} on {socket.gethostname()} waited for it")
    absent = store.get("missing").decode()
    store.set(f"informed/{rank}", "")
    if absent:
        many = "s" if "," in absent else ""
        raise ValueError(
            f"of {world} processes, rank{many} {absent.replace(',', ', ')} did not come within {seconds:g} s: was each "
            "node's command started, with the same MASTER_ADDR and MASTER_PORT? (ATROUS_PREFLIGHT=300 waits longer)"
        )
    return [store.get(key).decode() for key in keys]


def sum_over_all(store: dist.Store, rank: int, world: int, device: torch.device, seconds: float) -> None:
    """Sum over all processes, in a group of its own with this short limit; the run's has the strategy's."""
    backend, limit = ("nccl" if device.type == "cuda" else "gloo"), timedelta(seconds=seconds)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            backend, store=dist.PrefixStore("sum", store), rank=rank, world_size=world, timeout=limit
        )
        total = torch.ones((), device=device)
        dist.all_reduce(total, async_op=True).wait(limit)
        assert int(total) == world
        dist.destroy_process_group()
    except RuntimeError as error:
        raise ValueError(
            f"all {world} processes are there, but a sum over them by {backend} did not come back to rank {rank} "
            f"within {seconds:g} s ({str(error).splitlines()[0]}): GLOO_SOCKET_IFNAME and "
            "NCCL_SOCKET_IFNAME name the network interface, NCCL_DEBUG=INFO says more"
        ) from None


def _wait(store: dist.Store, keys: list[str], seconds: float) -> bool:
    """Wait for the keys; return whether all came in time."""
    try:
        if keys:
            store.wait(keys, timedelta(seconds=seconds))
    except RuntimeError:
        return False
    return True


def _seconds() -> float:
    value = os.environ.get("ATROUS_PREFLIGHT") or SECONDS
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        raise ValueError(f"`ATROUS_PREFLIGHT={value}` must be a number of seconds above 0")
    return seconds
