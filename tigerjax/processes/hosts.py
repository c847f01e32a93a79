"""Several processes as one run: how they join, what they agree on, and how they fail together.

A run on many hosts is one process a host, each with its own devices, all running the same program. They talk in two
ways: through the devices' collectives (the step), and through the key-value store of JAX's coordination service, which
lives in process 0. Everything here uses the second: it needs no device, and every wait has a name and a time limit.

Two rules keep it free of hangs. What a host waits for, it waits for with a time limit that ends in one line. And a
host that fails says so in the store (`together`); a thread on every other host reads it, prints the failed host's
line and leaves with its exit code, even while its main thread is stuck in a collective.
"""

import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax

from tigerjax.errors import ConfigError, HostsError, TigerjaxError
from tigerjax.files import paths
from tigerjax.processes.rendezvous import HostsConfig, find

FAILED, STOP, AT = "tigerjax/failed", "tigerjax/stop", "tigerjax/at/"
POLL_S = 1.0  # how often the watching thread looks into the store and at the clock, and says where its host is
GIVE_WAY_S = 10.0  # a stalled host waits as much longer for the line of the one that stalls it
LAST_S = 3.0  # process 0 leaves so much later than the others
LEAVE_S = 10.0  # a failed host waits as long for the others to read its line
SHUTDOWN_S = 60  # at the end of a run, for the slowest host to end too


@dataclasses.dataclass
class _State:
    config: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    uses: dict[str, int] = dataclasses.field(default_factory=dict)
    leaving: threading.Lock = dataclasses.field(default_factory=threading.Lock)  # taken once, by who ends the process
    where: str = "starting"
    since: float = 0.0  # monotonic time of the last change of `where`


_state = _State()


def start(config: HostsConfig) -> None:
    """Joins the run's other processes, before JAX touches a device. HostsError when they do not come in time."""
    _state.config = config
    arguments = find(config, os.environ)
    if arguments is None:
        return
    # Its handler for SIGTERM would take the place of the loop's, which saves a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=config.start_timeout_s,
            heartbeat_timeout_seconds=config.heartbeat_timeout_s,
            shutdown_timeout_seconds=SHUTDOWN_S,
        )
    except (RuntimeError, ValueError) as error:
        who = " ".join(f"{name}={value}" for name, value in arguments.items() if name != "cluster_detection_method")
        raise HostsError(
            f"the run's processes did not find each other within {config.start_timeout_s} s"
            f" ({who or 'from the environment'}): {_first_line(error)}; start all of them, with one coordinator"
        ) from error


def several() -> bool:
    """Whether this run has more than one process."""
    return _client() is not None


def is_writer() -> bool:
    """True on the one process that writes logs, metrics and manifests."""
    return not several() or jax.process_index() == 0


def say(line: str) -> None:
    """One line on stderr, from one host of all."""
    if is_writer():
        print(line, file=sys.stderr, flush=True)


def barrier(name: str) -> None:
    """Until every host is here. HostsError names the barrier and the hosts that did not come in time."""
    share(name, None)


def share(name: str, value: Any) -> list[Any]:
    """Every host's value (JSON), by host, in one meeting of all. HostsError as `barrier`."""
    client = _client()
    if client is None:
        return [value]
    _state.uses[name] = use = _state.uses.get(name, 0) + 1
    folder, timeout_s = f"tigerjax/share/{name}/{use}/", _state.config.barrier_timeout_s
    client.key_value_set(f"{folder}{jax.process_index()}", json.dumps(value))
    try:
        client.wait_at_barrier(folder, timeout_s * 1000)
    except jax.errors.JaxRuntimeError as error:
        came = {int(key.rpartition("/")[2]) for key, _ in client.key_value_dir_get(folder)}
        late = ", ".join(str(host) for host in range(jax.process_count()) if host not in came)
        raise HostsError(
            f"host {late} did not reach {name!r} within {timeout_s} s; see that host's log, then start all again"
            if late
            else f"meeting of all hosts at {name!r} failed: {_first_line(error)}"
        ) from error
    found = {int(key.rpartition("/")[2]): json.loads(text) for key, text in client.key_value_dir_get(folder)}
    return [found[host] for host in range(jax.process_count())]


def tell(name: str, value: float) -> dict[int, float]:
    """Leaves a number for the others, and takes what each host left last; nobody waits."""
    client = _client()
    if client is None:
        return {0: value}
    folder = f"tigerjax/tell/{name}/"
    client.key_value_set(f"{folder}{jax.process_index()}", json.dumps(value), allow_overwrite=True)
    found = client.key_value_dir_get(folder)
    return {int(key.rpartition("/")[2]): json.loads(text) for key, text in found}


def same(name: str, value: Any) -> None:
    """ConfigError, on every host, when `value` (JSON) is not the same on all."""
    values = share(name, value)
    for host, other in enumerate(values):
        if other != values[0]:
            raise ConfigError(
                f"{name} differs between hosts: {str(values[0])[:200]} on host 0, {str(other)[:200]} on host {host};"
                " start every host with the same command, files and version"
            )


def at(where: str) -> None:
    """Says that this host goes on: what it does now, for the line that a stall ends in."""
    _state.where, _state.since = where, time.monotonic()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A failure of one host in this block ends all: each prints that host's line and exits with its code.

    Also ends all when no `at` is heard for `stall_timeout_s`. One process alone is left as it is.
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
        raise  # agreed by all hosts (`Stop`), or a second signal
    except BaseException as error:
        _fail(client, error)
    finally:
        done.set()
        watching.join()  # a thread that is inside the client while Python ends aborts the process


class Stop:
    """After which step all hosts stop, once any of them has received a signal.

    Steps are collectives, and a host reads step i - 2 before it starts step i. So when a host that is about to start
    step i writes `stop before i + 2` into the store, no other can have started more than step i + 1, and each one
    that is about to start step i + 2 has read step i, which this host started after it wrote: all see it in time.
    """

    def __init__(self, received: list[int]):
        self._received, self._asked, self._agreed = received, False, 0

    @property
    def number(self) -> int:
        """The signal that all stop for; 0 while none do."""
        if several():
            return self._agreed
        return self._received[0] if self._received else 0

    def before(self, i: int) -> bool:
        """Whether to stop instead of starting step i."""
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
    """The key-value store of the coordination service; None in a run of one process. JAX has no public name for it."""
    from jax._src import distributed

    return distributed.global_state.client


def _watch(client: Any, done: threading.Event) -> None:
    """The thread of `together`: leaves with the line of whoever failed, and when nothing moves."""
    limit_s = _state.config.stall_timeout_s
    while not done.wait(POLL_S):
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.key_value_set(f"{AT}{jax.process_index()}", _state.where, allow_overwrite=True)
        try:
            client.key_value_try_get(FAILED)
        except jax.errors.JaxRuntimeError:  # nobody has failed
            still = time.monotonic() - _state.since
            # Who waits for its own data stalls the others: it speaks first, and they wait a little for its line.
            patience = limit_s if _state.where.startswith("reading") else limit_s + GIVE_WAY_S
            if still > patience and not done.is_set():
                others = ", ".join(f"host {key[len(AT) :]}: {v}" for key, v in client.key_value_dir_get(AT))
                _fail(client, HostsError(f"no step finished for {still:.0f} s ({others}); start all hosts again"))
            continue
        if not done.is_set():
            _leave(client)


def _fail(client: Any, error: BaseException) -> NoReturn:
    """Tells the other hosts, waits until they know, and ends this process."""
    error = paths.trouble(error) or error
    if isinstance(error, TigerjaxError):
        line, code = str(error), error.exit_code
    elif isinstance(error, jax.errors.JaxRuntimeError) and _lost(str(error)):
        line, code = f"a host was lost ({_first_line(error)}); start all hosts again", HostsError.exit_code
    else:
        traceback.print_exception(error)
        line, code = f"{type(error).__name__}: {_first_line(error)}", 1
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another host failed first: its line is the cause
        client.key_value_set(FAILED, json.dumps([jax.process_index(), line, code]))
    _leave(client)


def _leave(client: Any) -> NoReturn:
    _state.leaving.acquire()
    try:
        host, line, code = json.loads(client.blocking_key_value_get(FAILED, int(LEAVE_S * 1000)))
    except jax.errors.JaxRuntimeError:
        host, line, code = 0, "the coordinator was lost; start all hosts again", HostsError.exit_code
    print(f"tigerjax: host {host} of {jax.process_count()}: {line}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.wait_at_barrier("tigerjax/leaving", int(LEAVE_S * 1000))
    if jax.process_index() == 0:  # it holds the store, and who loses that is aborted by the runtime: it goes last
        time.sleep(LAST_S)
    # Not sys.exit: threads of the runtime wait for hosts that are leaving, and for minutes.
    os._exit(code)


def _lost(text: str) -> bool:
    return any(word in text for word in ("Gloo", "gloo", "UNAVAILABLE", "Connection closed", "heartbeat", "NCCL"))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
