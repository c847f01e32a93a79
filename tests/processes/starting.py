"""One process that joins a run, for the tests that start it: COORDINATOR PROCESSES PROCESS START_TIMEOUT_S [SOURCE]."""

import sys

from tigerjax.command import cli
from tigerjax.errors import TigerjaxError
from tigerjax.processes import hosts, versions
from tigerjax.processes.rendezvous import HostsConfig

if __name__ == "__main__":
    cli.quiet_start()
    coordinator, processes, process, limit, *source = sys.argv[1:]
    if source:
        facts = versions.running() | {"source": source[0]}
        versions.running = lambda: facts
    config = HostsConfig(
        coordinator=coordinator, processes=int(processes), process=int(process), start_timeout_s=int(limit)
    )
    try:
        hosts.start(config)
    except TigerjaxError as error:
        print(f"tigerjax: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    print("joined")
