"""How a process finds the other processes of its run: by options, JAX's variables, Slurm, or a TPU pod's metadata."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from tigerjax.config.ranges import Count, CountOrZero, Range, check
from tigerjax.errors import ConfigError

Find = Literal["auto", "one", "tpu", "slurm"]
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # set by srun

Seconds = Annotated[int, Range(1, 2_000_000)]
"""The coordination service counts milliseconds in 31 bits."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HostsConfig:
    """How the processes of a run on several hosts find each other, and how long they wait."""

    find: Find = "auto"
    """one: this process is the only one. slurm: ask Slurm. tpu: ask the environment or the metadata server of a TPU
    pod. auto: use --hosts.coordinator if it is given, else Slurm or a TPU pod on GKE if the environment names one,
    else this process is the only one."""
    coordinator: str | None = None
    """HOST:PORT of process 0. Without it, JAX_COORDINATOR_ADDRESS."""
    processes: Count | None = None
    """The number of processes. Without it, JAX_NUM_PROCESSES."""
    process: CountOrZero | None = None
    """The number of this process, from 0. Without it, JAX_PROCESS_ID."""
    start_timeout_s: Seconds = 300
    """Seconds in which all processes must have found each other."""
    barrier_timeout_s: Seconds = 1200
    """Seconds to wait for the slowest host where all hosts meet, such as while a checkpoint is written."""
    stall_timeout_s: Seconds = 1800
    """When no step ends for so many seconds, the run ends. The first step must be compiled in this time."""
    heartbeat_timeout_s: Seconds = 100
    """A process that does not answer for so many seconds counts as lost, and the run ends."""

    def __post_init__(self) -> None:
        check(self, "hosts.")


AUTO = HostsConfig()


def find(config: HostsConfig, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments for `jax.distributed.initialize`, or None when this is the only process.

    Coordinator, number of processes and number of this process belong together: ConfigError when only some are given.
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
    """`value`, the option, or else the number in the environment variable `name`."""
    if value is not None or name not in environ:
        return value
    if not environ[name].isdigit():
        raise ConfigError(f"{name}={environ[name]!r} must be a number; or give --hosts.{field}")
    return int(environ[name])
