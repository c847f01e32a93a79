"""Steps on Apache Beam: each is one pipeline, whose results come back through files in the stage's work folder."""

import functools
import importlib.util
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tigerjax.errors import ConfigError
from tigerjax.files import manifest
from tigerjax.stages.local import Report
from tigerjax.stages.outcomes import outcome, result

EXAMPLE = "--runner 'FlinkRunner --parallelism 4'"


class Beam:
    """`name` is a runner of Beam with its options. It shows its own progress."""

    def __init__(self, name: str, workers: int):
        self._name, self._words = name, split_runner(name)
        if workers != 1:
            raise ConfigError(
                f"workers={workers} counts processes of runner 'local', but the runner is {name!r}; give the number of"
                " its workers among its own options, after its name"
            )
        if importlib.util.find_spec("apache_beam") is None:
            raise ConfigError(f"runner {name!r} needs Apache Beam: pip install 'tigerjax[beam]', or use --runner local")

    def each(
        self, function: Callable[[Any], Any], items: Sequence[Any], folder: Path, report: Report | None
    ) -> list[Any]:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        folder.mkdir(parents=True, exist_ok=True)
        name, options = self._words
        try:
            with beam.Pipeline(name, options=PipelineOptions(options)) as pipeline:
                _ = (
                    pipeline
                    | beam.Create(list(enumerate(items)))
                    | beam.Reshuffle()
                    | beam.Map(functools.partial(_save_outcome, function, folder))
                )
        except ValueError as error:
            raise ConfigError(f"runner {self._name!r}: {' '.join(str(error).split())}") from error
        return [result(json.loads((folder / f"{i}.json").read_text(encoding="utf-8"))) for i in range(len(items))]

    def close(self) -> None:
        """Every pipeline has ended with its step."""


def split_runner(text: str) -> tuple[str, list[str]]:
    """The name of a runner of Beam and its options, from words as a shell reads them.

    ConfigError for a quote without its end, and where options come without a name.
    """
    try:
        name, *options = shlex.split(text) or [""]
    except ValueError as error:
        raise ConfigError(f'runner {text!r}: {error}; close the quote, as in "FlinkRunner --parallelism 4"') from error
    if not name or name.startswith("-"):
        raise ConfigError(f'runner {text!r} does not begin with a name; give one, as in "FlinkRunner --parallelism 4"')
    return name, options


def _save_outcome(function: Callable[[Any], Any], folder: Path, numbered: tuple[int, Any]) -> None:
    number, item = numbered
    manifest.write_json(folder / f"{number}.json", outcome(function, item))
