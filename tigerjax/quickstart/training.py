"""The quick start's training runs: the files under configs/, moved into the run's folder, each skipped when done."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tigerjax
from tigerjax import config as config_lib
from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError
from tigerjax.files import manifest

CONFIGS = Path(tigerjax.__file__).parent.parent / "configs"
HOME = "runs/quickstart"  # where the config files put their data; replaced by the --out of a run

Adjust = Callable[[RunConfig], RunConfig]


def run_config(name: str, out: Path, *, seed: int, adjust: Adjust) -> RunConfig:
    """configs/quickstart_NAME.py with its folders under `out`, its seed, and whatever `adjust` changes."""
    path = CONFIGS / f"quickstart_{name}.py"
    if not path.is_file():
        raise ConfigError(f"{path} is missing; run `tigerjax quickstart` from a clone with an editable install")
    base = config_lib.load(path)

    def moved(folder: str) -> str:
        return str(out) + folder.removeprefix(HOME)

    init_from = base.checkpoint.init_from
    return adjust(
        dataclasses.replace(
            base,
            seed=seed,
            data=dataclasses.replace(
                base.data, tokenizer=moved(base.data.tokenizer), cache_dir=moved(base.data.cache_dir)
            ),
            checkpoint=dataclasses.replace(base.checkpoint, init_from=moved(init_from) if init_from else None),
        )
    )


def train_once(config: RunConfig, run_dir: Path, *, inputs: list[Path]) -> dict[str, Any]:
    """Trains a mixture into `run_dir`; returns {parameters, shares (realised), wanted}."""
    from tigerjax.model import families
    from tigerjax.train.loop import train_on_mixture

    def run() -> dict[str, Any]:
        loader = train_on_mixture(config, run_dir=run_dir)
        return {
            "parameters": families.of(config.model).parameter_count(config.model),
            "shares": {name: seen["share"] for name, seen in loader.seen().items()},
            "wanted": dict(loader.rates),
        }

    return once(config, run_dir, run, inputs=inputs)


def once(
    config: RunConfig,
    run_dir: Path,
    run: Callable[[], dict[str, Any]],
    *,
    inputs: list[Path],
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Calls `run`, which trains into `run_dir` and gives figures, unless it was finished with the same inputs.

    An interrupted run of the same config and inputs is continued from its newest checkpoint; one of another config or
    other data is removed first, as nothing of it can be continued. Returns the figures.
    """
    what = [config_lib.dump(config), [manifest.sha256(p) for p in inputs], settings]
    key = hashlib.sha256(manifest.canonical(what)).hexdigest()
    old = manifest.read(run_dir)
    if old is not None and old["key"] == key:
        return old["figures"]
    started = run_dir / "started.json"
    if old is not None or (started.is_file() and json.loads(started.read_text(encoding="utf-8"))["key"] != key):
        shutil.rmtree(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    manifest.write_json(started, {"key": key})
    figures = run()
    manifest.write_json(run_dir / manifest.FILE, {"key": key, "config": config_lib.dump(config), "figures": figures})
    return figures


def curve(run_dir: Path) -> list[list[float]]:
    """[[step, loss_nats], ...] of a run, from its metrics.jsonl; a resumed step counts once."""
    points: dict[int, float] = {}
    for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        points[record["step"]] = record["loss_nats"]
    return [[step, loss] for step, loss in sorted(points.items())]
