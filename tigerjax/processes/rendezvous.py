"""Where a process finds the other processes of its run: flags, JAX's variables, Slurm, a TPU pod."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from tigerjax.errors import ConfigError

Find = Literal["auto", "one", "tpu", "slurm"]
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # of one srun task


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HostsConfig:
    """Where the other processes of this run are, and how long to wait for them."""

    find: Find = "auto"
    """auto: a coordinator that is given, else the environment of Slurm or of a TPU pod on GKE, else one process.
    tpu also asks the metadata server of a Cloud TPU VM; one looks for nobody."""
    coordinator: str | None = None
    """HOST:PORT of process 0; else JAX_COORDINATOR_ADDRESS."""
    processes: int | None = None
    """How many there are; else JAX_NUM_PROCESSES."""
    process: int | None = None
    """Which one this is, from 0; else JAX_PROCESS_ID."""
    start_timeout_s: int = 300
    """For all processes to find each other."""
    barrier_timeout_s: int = 1200
    """For the slowest host to reach a point where all meet, such as a checkpoint that is being written."""
    stall_timeout_s: int = 1800
    """Without a finished step, the first and its compilation included; then the run ends and can be started again."""
    heartbeat_timeout_s: int = 100
    """A process that does not answer for so long counts as lost, and all end."""

    def __post_init__(self) -> None:
        for name in ("start_timeout_s", "barrier_timeout_s", "stall_timeout_s", "heartbeat_timeout_s"):
            if getattr(self, name) < 1:
                raise ConfigError(f"hosts.{name}={getattr(self, name)} must be at least 1")


AUTO = HostsConfig()


def find(config: HostsConfig, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize` for this environment; None when this is the only process.

    Raises ConfigError for a coordinator without the number of processes or this one's, and the other way round.
    """
    given: dict[str, Any] = {
        "coordinator_address": config.coordinator or environ.get("JAX_COORDINATOR_ADDRESS"),
        "num_processes": _number("processes", config.processes, "JAX_NUM_PROCESSES", environ),
        "process_id": _number("process", config.process, "JAX_PROCESS_ID", environ),
    }
    if config.find == "auto" and any(value is not None for value in given.values()):
        flags = dict(zip(given, ("--hosts.coordinator", "--hosts.processes", "--hosts.process"), strict=True))
        if missing := [flags[name] for name, value in given.items() if value is None]:
            raise ConfigError(f"{' and '.join(missing)} missing: a run of several processes needs all three")
        count, index, address = given["num_processes"], given["process_id"], str(given["coordinator_address"])
        if not 0 <= index < count:
            raise ConfigError(f"--hosts.process {index} must be in [0, --hosts.processes {count})")
        if not address.rpartition(":")[2].isdigit():
            raise ConfigError(f"--hosts.coordinator {address!r} must be HOST:PORT")
        return None if count == 1 else given | {"cluster_detection_method": "deactivate"}
    if config.find == "slurm" or (config.find == "auto" and all(name in environ for name in SLURM)):
        if missing := [name for name in SLURM if name not in environ]:
            raise ConfigError(f"--hosts.find slurm, but {', '.join(missing)} is not set; start the command with srun")
        return None if environ["SLURM_NTASKS"] == "1" else {"cluster_detection_method": "slurm"}
    pod = "," in environ.get("TPU_WORKER_HOSTNAMES", "") or int(environ.get("MEGASCALE_NUM_SLICES", "1")) > 1
    return {} if config.find == "tpu" or (config.find == "auto" and pod) else None


def _number(field: str, value: int | None, name: str, environ: Mapping[str, str]) -> int | None:
    if value is not None or name not in environ:
        return value
    if not environ[name].isdigit():
        raise ConfigError(f"{name}={environ[name]!r} must be a number; or give --hosts.{field}")
    return int(environ[name])
