"""Several processes as one run: how they join, agree, and fail together.

A run on many hosts has one process on each host. All run the same program, each on its own devices. They communicate
in two ways. The training step uses collectives between devices. Everything in this file uses the key-value store of
JAX's coordination service, which process 0 holds: it needs no device.

Two rules prevent that a run hangs. First, every wait has a name and a time limit, and ends in one line when the limit
is over. Second, a host that fails writes its error into the store (`together`). A thread on every other host reads it,
prints it and exits with the same code, even while the main thread of that host waits in a collective.
"""

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax

from tigerjax.errors import ConfigError, HostsError, TigerjaxError
from tigerjax.files import system_errors
from tigerjax.files.lock import locked
from tigerjax.processes import coordinator, versions
from tigerjax.processes.rendezvous import HostsConfig, find
from tigerjax.terminal import tell as to_terminal

FAILED, STOP, AT = "tigerjax/failed", "tigerjax/stop", "tigerjax/at/"
POLL_S = 1.0  # how often the watching thread reads the store and writes what its host is doing
GIVE_WAY_S = 10.0  # a stalled host waits so much longer, for the error of the host that stalls it
LAST_S = 3.0  # process 0 exits so much later than the others
LEAVE_S = 10.0  # a failed host waits so long for the others to read its error
SHUTDOWN_S = 60  # at the end of a run, hosts wait so long for the slowest one


@dataclasses.dataclass
class _State:
    config: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    uses: dict[str, int] = dataclasses.field(default_factory=dict)
    leaving: threading.Lock = dataclasses.field(default_factory=threading.Lock)  # only one thread may end the process
    where: str = "starting"  # what this host is doing
    since: float = 0.0  # the monotonic time at which it began


_state = _State()


def start(config: HostsConfig) -> None:
    """Joins the other processes of the run, before JAX uses a device, and compares what they run.

    HostsError when the coordinator's port is taken. When the others do not come in time, the process ends with that
    line and code; when one runs other code or versions, all end with a line that names it.
    """
    _state.config = config
    arguments = find(config, os.environ)
    if arguments is None:
        return
    # That service would replace the training loop's handler for SIGTERM, which saves a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    named = " ".join(f"{name}={value}" for name, value in arguments.items() if name != "cluster_detection_method")
    late = (
        f"the run's processes did not find each other within {config.start_timeout_s} s"
        f" ({named or 'from the environment'})"
    )
    arguments = coordinator.bound(arguments)
    try:
        with coordinator.within(config.start_timeout_s, f"{late}; start all of them, with one coordinator"):
            jax.distributed.initialize(
                **arguments,
                initialization_timeout=config.start_timeout_s + coordinator.AFTER_OURS_S,
                heartbeat_timeout_seconds=config.heartbeat_timeout_s,
                shutdown_timeout_seconds=SHUTDOWN_S,
            )
    except (RuntimeError, ValueError) as error:
        raise HostsError(f"{late}: {_first_line(error)}; start all of them, with one coordinator") from error
    # Not by `share`, which asks JAX for this host's number: that starts the devices, of versions not yet compared.
    joined = _joined()
    _refuse_differing(
        "the code", _meet("the code of all hosts", versions.running(), joined.process_id, joined.num_processes)
    )


def several() -> bool:
    """Whether this run has more than one process."""
    return _client() is not None


def is_writer() -> bool:
    """True on the one process that writes logs, metrics and manifests."""
    return not several() or jax.process_index() == 0


def place() -> tuple[int, int]:
    """(this host's number, how many there are); (0, 1) in a run of one process."""
    return (jax.process_index(), jax.process_count()) if several() else (0, 1)


def address() -> tuple[socket.AddressFamily, str]:
    """(family, address) at which the other hosts reach this one: the one from which it reaches the coordinator."""
    host, _, port = _joined().coordinator_address.rpartition(":")
    family, kind, _, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(place)  # of UDP: nothing is sent
        return family, probe.getsockname()[0]


def alone_in(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the lock of a folder that the hosts write together, on one of them. ConfigError when another run has it."""
    return locked(folder) if is_writer() else contextlib.nullcontext()


def say(line: str) -> None:
    """Prints a line to standard error, on one host only."""
    if is_writer():
        to_terminal(line)


def barrier(name: str) -> None:
    """Waits until every host has called it. HostsError names the barrier and the hosts that did not come in time."""
    share(name, None)


def share(name: str, value: Any) -> list[Any]:
    """The values (JSON) that all hosts pass, in the order of the hosts. Waits for all of them, as `barrier` does."""
    return [value] if _client() is None else _meet(name, value, jax.process_index(), jax.process_count())


def _meet(name: str, value: Any, host: int, count: int) -> list[Any]:
    """`share`, on host number `host` of `count`."""
    client = _client()
    _state.uses[name] = use = _state.uses.get(name, 0) + 1
    folder, timeout_s = f"tigerjax/share/{name}/{use}/", _state.config.barrier_timeout_s
    client.key_value_set(f"{folder}{host}", json.dumps(value))
    try:
        client.wait_at_barrier(folder, timeout_s * 1000)
    except jax.errors.JaxRuntimeError as error:
        arrived = {int(key.rpartition("/")[2]) for key, _ in client.key_value_dir_get(folder)}
        late = ", ".join(str(host) for host in range(count) if host not in arrived)
        raise HostsError(
            f"host {late} did not reach {name!r} within {timeout_s} s; see that host's log, then start all again"
            if late
            else f"meeting of all hosts at {name!r} failed: {_first_line(error)}"
        ) from error
    values = {int(key.rpartition("/")[2]): json.loads(text) for key, text in client.key_value_dir_get(folder)}
    return [values[host] for host in range(count)]


def tell(name: str, value: float) -> dict[int, float]:
    """Publishes a number of this host, and returns the latest number of each host. Nobody waits."""
    client = _client()
    if client is None:
        return {0: value}
    folder = f"tigerjax/tell/{name}/"
    client.key_value_set(f"{folder}{jax.process_index()}", json.dumps(value), allow_overwrite=True)
    entries = client.key_value_dir_get(folder)
    return {int(key.rpartition("/")[2]): json.loads(text) for key, text in entries}


def same(name: str, value: Any) -> None:
    """Compares a value (JSON) between all hosts. ConfigError on every host when they differ.

    Of objects, only the entries that differ are shown.
    """
    _refuse_differing(name, share(name, value))


def _refuse_differing(name: str, values: list[Any]) -> None:
    """ConfigError when the values of all hosts are not equal."""
    for host, other in enumerate(values):
        if other != values[0]:
            here, there = _differing(values[0], other)
            raise ConfigError(
                f"{name} differs between hosts: {here[:300]} on host 0, {there[:300]} on host {host};"
                " start every host with the same command, files and version"
            )


def _differing(one: Any, other: Any) -> tuple[str, str]:
    """What is different in two values, as text: the entries `name value` of objects, else the values."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return str(one), str(other)
    flat, other_flat = _flat(one), _flat(other)
    names = sorted(n for n in flat.keys() | other_flat.keys() if flat.get(n) != other_flat.get(n))
    shown = [", ".join(f"{n} {value.get(n) or 'none'}" for n in names) for value in (flat, other_flat)]
    return shown[0], shown[1]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The entries of an object and of the objects in it, named `outer.inner`."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{prefix}{name}.") if isinstance(inner, dict) else {f"{prefix}{name}": inner}
    return found


def at(where: str) -> None:
    """Records what this host is doing, and so that it is not stalled. The error of a stalled run quotes it."""
    _state.where, _state.since = where, time.monotonic()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Runs a block so that an error on one host ends all: each prints that host's error and exits with its code.

    All hosts end too when one has not called `at` for `stall_timeout_s`. With one process the block just runs.
    """
    if (client := _client()) is None:
        yield
        return
    done = threading.Event()
    at("starting")
    watching = threading.Thread(target=_watch, args=(client, done), name="hosts", daemon=True)
    watching.start()
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise  # all hosts have agreed to stop (`Stop`), or this is a second signal
    except BaseException as error:
        _fail(client, error)
    finally:
        done.set()
        watching.join()  # Python would abort if it ended while the thread is inside the client


class Stop:
    """Lets all hosts stop before the same step, when one of them has received a signal.

    A host that has received a signal and is about to start step i writes `stop before step i + 2` into the store. All
    hosts read that in time: a step is a collective, and a host waits for the result of step i before it starts step
    i + 2. That result needs the host with the signal, which starts step i only after it has written.
    """

    def __init__(self, received: list[int]):
        self._received, self._asked, self._agreed = received, False, 0

    @property
    def number(self) -> int:
        """The number of the signal that all hosts stop for, or 0."""
        if several():
            return self._agreed
        return self._received[0] if self._received else 0

    def before(self, i: int) -> bool:
        """Whether to stop before step i."""
        client = _client()
        if client is None:
            return bool(self._received)
        if self._received and not self._asked:
            self._asked = True
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # another host was first
                client.key_value_set(STOP, json.dumps([i + 2, self._received[0]]))
        try:
            stop, number = json.loads(client.key_value_try_get(STOP))
        except jax.errors.JaxRuntimeError:  # nobody has asked
            return False
        if i >= stop:
            self._agreed = number
        return i >= stop


def _client() -> Any:
    """The key-value store of the coordination service; None in a run of one process."""
    return _joined().client


def _joined() -> Any:
    """What JAX knows of the processes that have joined. It has no public API for it."""
    from jax._src import distributed

    return distributed.global_state


def _watch(client: Any, done: threading.Event) -> None:
    """The thread of `together`: it ends the process when another host has failed, or when this one stalls."""
    limit_s = _state.config.stall_timeout_s
    while not done.wait(POLL_S):
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.key_value_set(f"{AT}{jax.process_index()}", _state.where, allow_overwrite=True)
        try:
            client.key_value_try_get(FAILED)
        except jax.errors.JaxRuntimeError:  # nobody has failed
            still = time.monotonic() - _state.since
            # A host that waits for its data stalls the others. It reports first, so that its error is the one shown.
            patience = limit_s if _state.where.startswith("reading") else limit_s + GIVE_WAY_S
            if still > patience and not done.is_set():
                others = ", ".join(f"host {key[len(AT) :]}: {v}" for key, v in client.key_value_dir_get(AT))
                _fail(client, HostsError(f"no step finished for {still:.0f} s ({others}); start all hosts again"))
            continue
        if not done.is_set():
            _leave(client)


def _fail(client: Any, error: BaseException) -> NoReturn:
    """Writes this host's error into the store, waits until the others have read it, and ends this process."""
    error = system_errors.meaning(error) or error
    if isinstance(error, TigerjaxError):
        line, code = str(error), error.exit_code
    elif isinstance(error, jax.errors.JaxRuntimeError) and _lost(str(error)):
        line, code = f"a host was lost ({_first_line(error)}); start all hosts again", HostsError.exit_code
    else:
        traceback.print_exception(error)
        line, code = f"{type(error).__name__}: {_first_line(error)}", 1
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another host failed first; its error is shown
        client.key_value_set(FAILED, json.dumps([jax.process_index(), line, code]))
    _leave(client)


def _leave(client: Any) -> NoReturn:
    """Prints the error in the store and ends this process with its code."""
    _state.leaving.acquire()
    try:
        host, line, code = json.loads(client.blocking_key_value_get(FAILED, int(LEAVE_S * 1000)))
    except jax.errors.JaxRuntimeError:
        host, line, code = 0, "the coordinator was lost; start all hosts again", HostsError.exit_code
    to_terminal(f"tigerjax: host {host} of {jax.process_count()}: {line}")
    sys.stdout.flush()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.wait_at_barrier("tigerjax/leaving", int(LEAVE_S * 1000))
    if jax.process_index() == 0:  # it holds the store, and the runtime aborts hosts that lose it: so it exits last
        time.sleep(LAST_S)
    # sys.exit would wait for minutes: threads of the runtime wait for hosts that have already gone.
    os._exit(code)


def _lost(text: str) -> bool:
    return any(word in text for word in ("Gloo", "gloo", "UNAVAILABLE", "Connection closed", "heartbeat", "NCCL"))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
