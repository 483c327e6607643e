"""hydra/launcher=local: a process for each run of a sweep, started with plain overrides and packed onto the devices."""

# No postponed annotations: Hydra executes this file before it is a module in which a dataclass could resolve them.
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LocalConf:
    _target_: str = "hydra_plugins.atrous_launcher.local.LocalLauncher"
    devices_per_job: int | None = None  # GPUs, or shares of the cores; null: the run's trainer.devices
    jobs: int | None = None  # at a time; null: as many as there are devices for; on a CPU a core and 4 GB for each
    grace: float = 120.0  # seconds to save after a signal, before a run is killed


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalConf, provider="atrous")


class LocalLauncher(Launcher):
    """Hydra's own launchers would run all jobs in one process, or start the other processes of a DDP run from the
    sweep's command line, so that each replays the whole sweep."""

    def __init__(self, devices_per_job: int | None = None, jobs: int | None = None, grace: float = 120.0):
        self.devices_per_job, self.jobs, self.grace = devices_per_job, jobs, grace

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.failures: list[str] = getattr(task_function, "failures", [])  # atrous.sweep.session.SweepTask's

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from atrous.sweep.launch import LaunchSettings, launch  # Hydra imports every plugin at every start

        settings = LaunchSettings(self.devices_per_job, self.jobs, self.grace)
        return launch(job_overrides, self.config, settings, self.failures)
