"""What a run reads: the sources of its mixture, and of the mixtures of its later phases."""

from typing import Any

from tigerjax.config import DataConfig
from tigerjax.config.phases import starts
from tigerjax.data.schedule import Phase
from tigerjax.data.tasks import RowMaker, is_own, row_maker
from tigerjax.errors import ConfigError, near_miss
from tigerjax.records.tf import start


def get_mixture(name: str) -> Any:
    """The registered SeqIO mixture; ConfigError with similar names when there is none."""
    _, seqio = start()

    if name not in seqio.MixtureRegistry.names():
        there = sorted(seqio.MixtureRegistry.names())
        near = near_miss(name, there) or f"; there are {', '.join(there) or 'none'}"
        raise ConfigError(f"mixture {name!r} is not registered; data.modules must name its module{near}")
    return seqio.MixtureRegistry.get(name)


def tasks_of(data: DataConfig) -> list[Any]:
    """The SeqIO tasks that a config's mixture and the mixtures of its later phases read, by their names.

    Raises ConfigError for a mixture that is not registered.
    """
    tasks = {task.name: task for task in standing(data).values()}
    return [tasks[name] for name in sorted(tasks)]


def _mixtures(data: DataConfig) -> list[str]:
    return [data.mixture, *(one.mixture for one in starts(data.phases))]


def standing(data: DataConfig) -> dict[str, Any]:
    """{name of a task of a config's mixtures: the task that is read for it}.

    Where an earlier phase has a source of the same rows, that one is read on. Its name and what may differ between
    phases, weight and max_epochs, do not count.
    """
    made: dict[str, Any] = {}
    known: dict[RowMaker, Any] = {}
    for name in dict.fromkeys(_mixtures(data)):
        own: dict[RowMaker, Any] = {}
        for task in get_mixture(name).tasks:
            rows = None if is_own(task) else row_maker(task)
            made[task.name] = task if rows is None else known.get(rows.same_rows(), task)
            if rows is not None:
                own.setdefault(rows.same_rows(), made[task.name])
        known = own | known
    return made


def phases_of(data: DataConfig, batch_rows: int) -> list[Phase]:
    """What the loader of a config follows: the shares of its mixture, and of those of later phases."""
    stands = standing(data)

    def rates(name: str) -> dict[str, float]:
        mixture, of_sources = get_mixture(name), dict[str, float]()
        for task in mixture.tasks:
            source = stands[task.name].name
            of_sources[source] = of_sources.get(source, 0.0) + float(mixture.get_rate(task))
        return of_sources

    phases = [Phase(rates(data.mixture))]
    for one in starts(data.phases):
        first, ramp = one.first * batch_rows, (one.whole - one.first) * batch_rows
        phases.append(Phase(rates(one.mixture), first, ramp, phases[-1].rates if ramp else {}))
    return phases


def limits_of(data: DataConfig) -> dict[str, float | None]:
    """The max_epochs of each source: the smallest that a phase names."""
    made: dict[str, float | None] = {}
    _, seqio = start()
    for name, task in standing(data).items():
        if (maker := row_maker(seqio.TaskRegistry.get(name))) is not None:
            named = [limit for limit in (made.get(task.name), maker.max_epochs) if limit is not None]
            made[task.name] = min(named, default=None)
    return made
