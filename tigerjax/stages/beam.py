"""Steps on Apache Beam: each is one pipeline, whose results come back through files in the stage's work folder."""

import functools
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tigerjax.errors import ConfigError
from tigerjax.files import manifest
from tigerjax.files.progress import Advance
from tigerjax.stages import remote
from tigerjax.stages.words import split_runner


class Beam:
    """`name` is a runner of Beam with its options. It shows its own progress."""

    def __init__(self, name: str, workers: int):
        self._name, self._words = name, split_runner(name)
        if workers != 1:
            raise ConfigError(
                f"workers={workers} counts processes of runner 'local', but the runner is {name!r}; give the number of"
                " its workers among its own options, after its name"
            )
        if not self._words[0].lower().endswith("runner"):  # before Beam is imported, which takes seconds
            raise self._unknown()
        if importlib.util.find_spec("apache_beam") is None:
            raise ConfigError(f"runner {name!r} needs Apache Beam: pip install 'tigerjax[beam]', or use --runner local")

    def each(
        self, function: Callable[[Any], Any], items: Sequence[Any], folder: Path, report: Advance | None
    ) -> list[Any]:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        def run(place: remote.Place) -> list[dict[str, Any]]:
            name, options = self._words
            task = functools.partial(remote.task, place, function)
            try:
                with beam.Pipeline(name, options=PipelineOptions(options)) as pipeline:
                    _ = (
                        pipeline
                        | beam.Create(list(enumerate(items)))
                        | beam.Reshuffle()
                        | beam.Map(functools.partial(_save, task, folder.absolute()))
                    )
                return [json.loads((folder / f"{i}.json").read_text(encoding="utf-8")) for i in range(len(items))]
            except ValueError as error:
                why = " ".join(str(error).split())
                if why.startswith("Unexpected pipeline runner"):
                    raise self._unknown() from error
                raise ConfigError(f"runner {self._name!r}: {why}") from error

        return remote.each(items, folder, run)

    def _unknown(self) -> ConfigError:
        return ConfigError(
            f"runner {self._name!r}: it is not known; give local, spark://HOST:PORT, yarn, k8s://HOST:PORT, slurm, or a"
            " runner of Apache Beam, such as DirectRunner or FlinkRunner"
        )

    def cores(self) -> int | None:
        """None: it is not known."""
        return None

    def close(self) -> None:
        """Every pipeline has ended with its step."""


def _save(task: Callable[[Any], dict[str, Any]], folder: Path, numbered: tuple[int, Any]) -> None:
    number, item = numbered
    manifest.write_json(folder / f"{number}.json", task(item))
