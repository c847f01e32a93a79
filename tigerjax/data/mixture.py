"""Training sets as SeqIO mixtures, whose rates are token shares.

A source is a SeqIO task. Each task turns files into rows of exactly L tokens before rows are mixed, so a rate in rows
*is* a share of tokens. The order of sources is `loader.schedule`, given to SeqIO as the mixture's sample_fn. A mixture
of your own:

    from tigerjax.data.mixture import Source, holistic

    holistic(
        "mine", tokenizer="tok", instruct=Source("sft/*.jsonl"), instruct_fraction=0.05,
        zh={"web": Source("zh_web/*.jsonl.zst", weight=3), "books": Source("zh_books.jsonl", max_epochs=2)},
        en={"wiki": Source("en/*.jsonl")},
    )

stands in a module that the config's `data.modules` names. Files and tokenizer folders are looked up when rows are
made, not at import. To register a name again replaces its mixture.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax.config import DataConfig
from tigerjax.data import caching
from tigerjax.data.caching import Caching
from tigerjax.data.loader import Loader, check_epochs
from tigerjax.data.proportions import Proportions, measure
from tigerjax.data.schedule import Phase, needed, order
from tigerjax.data.sources import get_mixture, limits_of, phases_of, standing, tasks_of
from tigerjax.data.tasks import (
    Source,
    add_documents_task,
    add_instruct_task,
    add_sft_task,
    row_maker,
)
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, paths
from tigerjax.files.progress import Progress
from tigerjax.records.notes import note
from tigerjax.records.seqio_tasks import import_modules
from tigerjax.records.tf import start
from tigerjax.stages.runner import LOCAL
from tigerjax.tokenizer.chat import Overlong

HOLISTIC_RANGE = (0.05, 0.10)  # what TigerBot used; other fractions give a warning
ALLOWED_RANGE = (0.0, 0.2)
MOST_TEMPERATURE = 1000.0
MODULES = "data.modules"
"""Names the modules that register mixtures."""


def sample_fn(datasets: list[Any], rates: list[float], seed: int | None) -> Any:
    """Mixes datasets for SeqIO by the loader's schedule. Nothing is drawn, so the seed changes nothing."""
    names = [f"{i:06}" for i in range(len(datasets))]  # sorted as the datasets are, which SeqIO sorts by their tasks
    return _mixed(names, [Phase(dict(zip(names, rates, strict=True)))], datasets)


def _mixed(names: Sequence[str], phases: Sequence[Phase], datasets: list[Any], *_: Any) -> Any:
    """The datasets of sources, mixed in the order of the phases. A function of these is a `sample_fn`."""
    tf, _seqio = start()
    place = {name: np.int64(i) for i, name in enumerate(names)}

    choice = tf.data.Dataset.from_generator(
        lambda: map(place.__getitem__, order(phases)), output_signature=tf.TensorSpec([], tf.int64)
    )
    return tf.data.Dataset.choose_from_datasets(datasets, choice, stop_on_empty_dataset=True)


def add_mixture(name: str, rates: Mapping[str, float | Proportions]) -> None:
    """Registers a mixture of registered tasks; `rates` are token shares, on any scale.

    Raises ConfigError where none is above 0."""
    _, seqio = start()

    fixed = [1.0 if isinstance(rate, Proportions) else rate for rate in rates.values()]
    if not rates or min(fixed) < 0 or sum(fixed) <= 0:
        raise ConfigError(f"mixture {name}: rates {dict(rates)} must not be negative, and must not all be 0")
    tasks = [(task, rate) for task, rate in rates.items() if isinstance(rate, Proportions) or rate > 0]
    seqio.MixtureRegistry.remove(name)
    seqio.MixtureRegistry.add(name, tasks, sample_fn=sample_fn)


def sft(name: str, *, tokenizer: str | Path, examples: Source, overlong: Overlong = "drop") -> None:
    """Registers a mixture of one source of SFT examples; `overlong` is that of `tasks.add_sft_task`."""
    add_mixture(name, {add_sft_task(f"{name}.sft", examples, tokenizer=tokenizer, overlong=overlong): 1.0})


def pretraining(
    name: str, *, tokenizer: str | Path, sources: Mapping[str, Source], temperature: float | None = None
) -> None:
    """Registers a mixture of documents without instructions; the weights of the sources are their token shares, which
    `temperature` makes follow their sizes, as in `holistic`."""
    weights = {add_documents_task(f"{name}.{key}", s, tokenizer=tokenizer): s.weight for key, s in sources.items()}
    add_mixture(name, weights if temperature is None else _divided(name, 1.0, weights, temperature))


def _divided(
    name: str, share: float, weights: Mapping[str, float], temperature: float | None
) -> dict[str, float | Proportions]:
    """The rates of sources that divide a share."""
    if temperature is not None and not 1 <= temperature <= MOST_TEMPERATURE:
        raise ConfigError(f"mixture {name}: temperature={temperature} must be in [1, {MOST_TEMPERATURE:g}], or None")
    total = sum(weights.values())
    if temperature is None or not share or not total:
        return {task: share * weight / total if total else 0.0 for task, weight in weights.items()}
    by_size = Proportions(name, share, {task: weight for task, weight in weights.items() if weight}, temperature)
    return {task: by_size if weight else 0.0 for task, weight in weights.items()}


def holistic(
    name: str,
    *,
    tokenizer: str | Path,
    zh: Mapping[str, Source],
    en: Mapping[str, Source],
    instruct: Source,
    instruct_fraction: float,
    zh_share: float = 0.5,
    temperature: float | None = None,
) -> None:
    """Registers the holistic recipe: documents in two languages, and instruction data among them.

    Instructions get the share f, zh and en divide 1 - f, and the sources of a language divide its share by weight.
    With f = 0.1 and one source per language: {name.instruct: 0.1, name.zh.X: 0.45, name.en.Y: 0.45}. Code is English.
    With `temperature` they divide it by weight x tokens ^ (1 / temperature) (`proportions`).

    Raises ConfigError for a share outside of its range, and for a language with a share but no source.
    """
    low, high = ALLOWED_RANGE
    if not low <= instruct_fraction <= high:
        raise ConfigError(f"mixture {name}: instruct_fraction={instruct_fraction} must be in [{low}, {high}]")
    if not HOLISTIC_RANGE[0] <= instruct_fraction <= HOLISTIC_RANGE[1]:
        note(f"mixture {name}: instruct_fraction={instruct_fraction} is outside the published {list(HOLISTIC_RANGE)}")
    if not 0 <= zh_share <= 1:
        raise ConfigError(f"mixture {name}: zh_share={zh_share} must be in [0, 1]")
    rates: dict[str, float | Proportions] = {}
    rates[add_instruct_task(f"{name}.instruct", instruct, tokenizer=tokenizer)] = instruct_fraction
    for lang, sources, share in (("zh", zh, zh_share), ("en", en, 1 - zh_share)):
        total = sum(s.weight for s in sources.values())
        if share and total <= 0:
            raise ConfigError(
                f"mixture {name}: {lang} has share {share} but no source with a weight above 0;"
                " give it one, or the share 0"
            )
        weights = {
            add_documents_task(f"{name}.{lang}.{key}", source, tokenizer=tokenizer): source.weight
            for key, source in sources.items()
        }
        rates |= _divided(name, (1 - instruct_fraction) * share, weights, temperature)
    add_mixture(name, rates)


def add_moving(data: DataConfig, batch_rows: int) -> Any:
    """Registers the mixture of a config with phases in SeqIO, and returns it: MIXTURE.STEP.MIXTURE…, such as
    mine.8000.anneal. What its `get_dataset` yields is in the order of the loader."""
    _, seqio = start()

    phases, tasks = phases_of(data, batch_rows), tasks_of(data)
    name = re.sub(r"[=-]", ".", ".".join([data.mixture, *data.phases]))
    first = {task.name: phases[0].rates.get(task.name, 0.0) for task in tasks}
    mix = functools.partial(_mixed, [task.name for task in tasks], phases)
    seqio.MixtureRegistry.remove(name)
    return seqio.MixtureRegistry.add(name, list(first.items()), sample_fn=mix)


def cache(mixture: str, how: Caching) -> dict[str, Path]:
    """`caching.cache` of the tasks of a registered mixture."""
    return caching.cache(get_mixture(mixture).tasks, how)


def mixture_config(
    mixture: str,
    modules: Sequence[str],
    cache_dir: str | Path,
    seq_len: int,
    max_dropped: float,
    phases: tuple[str, ...] = (),
) -> DataConfig:
    """A data config for a registered mixture; its tokenizer is the one that the mixture's sources name.

    Raises ConfigError where none of them names one.
    """
    import_modules(modules, MODULES)
    makers = [maker for task in get_mixture(mixture).tasks if (maker := row_maker(task)) is not None]
    if not makers:
        raise ConfigError(f"no source of mixture {mixture!r} names a tokenizer; train with a config that names one")
    return DataConfig(
        mixture=mixture,
        modules=tuple(modules),
        tokenizer=makers[0].tokenizer,
        cache_dir=str(cache_dir),
        seq_len=seq_len,
        max_dropped=max_dropped,
        phases=phases,
    )


def open_loader(
    data: DataConfig,
    *,
    batch_rows: int,
    seed: int,
    mine: Sequence[int] | None = None,
    total_rows: int | None = None,
    runner: str = LOCAL,
    progress: Progress | None = None,
    verify: bool = False,
) -> Loader:
    """The loader of a config's mixture.

    Rows that are missing or outdated are made first; the hosts of a run divide the sources. Rows that were cached with
    another tokenizer than `data.tokenizer` are a DataError. With `total_rows` (steps x batch_rows), a source that would
    not last is a ConfigError before training starts.
    """
    from tigerjax.tokenizer.load import Tokenizer

    import_modules(data.modules, MODULES)
    tasks = tasks_of(data)
    tokenizer = Tokenizer(data.tokenizer)
    sha = tokenizer.sha256
    folders = {task.name: paths.of(data.cache_dir) / task.name for task in tasks}
    for name, folder in folders.items():
        made = manifest.read(folder)
        if made is not None and (old := made.get("figures", {}).get("tokenizer_sha256")) not in (None, sha):
            raise DataError(
                f"{folder}: rows of {name} were made with tokenizer {str(old)[:12]}, but {data.tokenizer} is"
                f" {sha[:12]}; remove the folder (rm -r {folder}) and run `tigerjax data cache CONFIG`, or name the old"
                " tokenizer"
            )
    how = Caching(
        tokenizer=data.tokenizer,
        cache_dir=data.cache_dir,
        seq_len=data.seq_len,
        max_dropped=data.max_dropped,
        runner=runner,
        verify=verify,
        progress=progress,
    )
    caching.by_hosts(tasks, how)
    measure({name: _tokens_of_an_epoch(folders[task.name]) for name, task in standing(data).items()})
    limits = limits_of(data)
    phases = phases_of(data, batch_rows)
    loader = Loader(folders, phases, batch_rows, data.seq_len, seed, mine=mine, max_epochs=limits)
    loader.vocab_size = tokenizer.size
    if total_rows is not None:
        rows = needed(phases, total_rows)
        check_epochs(
            {s.name: (rows.get(s.name, 0.0), s.epoch_rows, limits.get(s.name)) for s in loader.sources}, total_rows
        )
    return loader


def _tokens_of_an_epoch(folder: Path) -> int:
    made = (manifest.read(folder) or {})["figures"]
    return round(made["tokens"] / len(made.get("passes") or [1]))


def figures(loader: Loader, seq_len: int) -> dict[str, Any]:
    """The figures of a mixture: wanted and realised token shares, fill, rows, tokens, and the same of each source.

    The realised shares are those of the rows up to where the first source has been read once. Of a mixture that moves
    they are those of its first phase.
    """
    counts = dict.fromkeys(loader.names, 0)
    available, epochs = loader.rows(), {source.name: source.epoch_rows for source in loader.sources}
    for name in order(loader.phases[:1]):
        if counts[name] >= epochs[name]:
            break
        counts[name] += 1
    per_row = {s.name: s.figures["tokens"] / s.rows for s in loader.sources}
    seen = {name: counts[name] * per_row[name] for name in loader.names}
    total_rows, tokens = sum(available.values()), sum(s.figures["tokens"] for s in loader.sources)
    return {
        "wanted": loader.rates,
        "realised": {name: value / sum(seen.values()) for name, value in seen.items()},
        "fill": tokens / (total_rows * seq_len),
        "rows": total_rows,
        "rows_of_an_epoch": sum(counts.values()),
        "tokens": tokens,
        "sources": {
            s.name: {k: s.figures.get(k) for k in ("rows", "tokens", "records", "characters", "overlong", "weightless")}
            | {"chars_per_token": _characters_a_token(s.figures)}
            for s in loader.sources
        },
    }


def _characters_a_token(made: Mapping[str, Any]) -> float:
    """Of what a source's rows were made of. The tokens that filled no row had characters too."""
    return made.get("characters", 0) / (made["tokens"] + made.get("left_over", 0))
