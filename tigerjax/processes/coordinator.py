"""The address at which the processes of a run meet: tried before JAX does, which would end the process by a crash.

The coordination service trusts whoever reaches its port. So it listens on the one address that the others were told,
which is loopback or the address of the slice's network, and not on every network of the machine.
"""

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

from tigerjax.errors import HostsError
from tigerjax.terminal import tell

_TAKEN = (errno.EADDRINUSE, errno.EACCES)
AFTER_OURS_S = 60  # JAX, which ends the process by an abort, waits so much longer than we do


def bind_address(address: str) -> str | None:
    """HOST:PORT where process 0 can listen for the others; None when HOST is no address of this machine.

    None leaves it to JAX, which listens on all addresses. HostsError when the port is taken.
    """
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, OverflowError):
        return None  # a name that only the others can look up
    for family, kind, protocol, _, place in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that has just been left is free
            try:
                probe.bind(place)
                probe.listen(1)
            except OSError as error:
                if error.errno in _TAKEN:
                    raise HostsError(
                        f"port {port} of {host} is taken by another program, perhaps an earlier run that still ends;"
                        " give another port in --hosts.coordinator to every process, or end that program"
                    ) from error
                continue  # not an address of this machine
        name = f"[{place[0]}]" if family == socket.AF_INET6 else place[0]
        return f"{name}:{port}"
    return None


def bound(arguments: dict[str, Any]) -> dict[str, Any]:
    """`arguments` of `jax.distributed.initialize`, for process 0 with the address to listen on."""
    address = arguments.get("coordinator_address")
    if address is None or arguments.get("process_id") != 0 or "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:
        return arguments
    place = bind_address(address)
    if place is None:
        tell(
            f"tigerjax: {address} is no address of this machine, so the coordinator listens on all its addresses;"
            " JAX_COORDINATOR_BIND_ADDRESS=HOST:PORT names one"
        )
        return arguments
    return arguments | {"coordinator_bind_address": place}


@contextlib.contextmanager
def within(seconds: float, line: str) -> Iterator[None]:
    """Ends the process with `line` and exit code 1 when the block takes longer than `seconds`.

    For calls that cannot be interrupted and that would end the process by themselves, with a stack of C++.
    """
    done = threading.Event()

    def end() -> None:
        if not done.wait(seconds):
            tell(f"tigerjax: {line}")
            os._exit(HostsError.exit_code)

    threading.Thread(target=end, name="start limit", daemon=True).start()
    try:
        yield
    finally:
        done.set()
