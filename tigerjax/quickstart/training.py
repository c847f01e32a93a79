"""The quick start's training runs: the files configs/quickstart_*.py, each skipped when it is done already."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tigerjax import config as config_lib
from tigerjax.config import RunConfig
from tigerjax.files import manifest, paths
from tigerjax.files.log import records
from tigerjax.quickstart.state import Quickstart


def train(quick: Quickstart, name: str) -> None:
    """Trains OUT/NAME by configs/quickstart_NAME.py; the holistic run starts from the base with a larger vocabulary."""
    config, run_dir = quick.config(name), quick.out / name
    inputs = [Path(config.data.tokenizer)]
    inputs += {
        "base": [quick.out / "sources"],
        "holistic": [quick.out / "sources", quick.out / "early"],
        "sft": [quick.out / "instructions"],
        "control": [quick.out / "instructions"],
    }[name]
    if name == "holistic":
        _resize(quick)
    if config.checkpoint.init_from is not None:
        inputs.append(Path(config.checkpoint.init_from) / manifest.FILE)
    done = train_once(config, run_dir, inputs=inputs)
    quick.report["curves"][name] = curve(run_dir)
    if name == "holistic":
        quick.report["shares"] = {"wanted": done["wanted"], "realised": done["shares"]}
        quick.report["config"] = {
            "parameters": done["parameters"],
            "tokens": config.global_batch_size * config.data.seq_len * config.optim.total_steps,
        }


def _resize(quick: Quickstart) -> None:
    """The base checkpoint with rows for the new vocabulary: the mean of the sub-tokens that it replaces."""
    from tigerjax.checkpoint.model import load_model, save_model
    from tigerjax.convert.vocab import resize
    from tigerjax.tokenizer.load import Tokenizer

    out, wanted = quick.out, quick.config("holistic").model
    tokenizers = [out / "base_tokenizer", out / "tokenizer"]
    with manifest.stage(
        out / "base_resized", name="resize", config={}, inputs=[out / "base" / manifest.FILE, *tokenizers]
    ) as run:
        if run.done:
            return
        model = load_model(out / "base")
        base, extended = map(Tokenizer, tokenizers)
        multiple = wanted.padded_vocab_size if wanted.padded_vocab_size > model.config.padded_vocab_size else 128
        weights, config = resize(model.weights, model.config, base, extended, multiple=multiple)
        save_model(run.tmp / "checkpoints" / "0", weights, config, tokenizer_sha256=extended.sha256)


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
    """Calls `run`, which trains into `run_dir` and returns figures, unless that was done before with the same inputs.

    Returns the figures. An interrupted run of the same config and inputs is continued from its newest checkpoint. A
    run of another config or of other data is removed first, because it cannot be continued.
    """
    what = [config_lib.dump(config), [manifest.sha256(p) for p in inputs], settings]
    key = hashlib.sha256(manifest.canonical(what)).hexdigest()
    old = manifest.read(run_dir)
    if old is not None and old["key"] == key:
        return old["figures"]
    started = run_dir / "started.json"
    if old is not None or (started.is_file() and json.loads(started.read_text(encoding="utf-8"))["key"] != key):
        manifest.refuse_strangers(run_dir, old)
        shutil.rmtree(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    manifest.write_json(started, {"key": key})
    figures = run()
    outputs = [{"path": name} for name in sorted(paths.sizes(run_dir))]
    made = {"key": key, "config": config_lib.dump(config), "figures": figures, "outputs": outputs}
    manifest.write(run_dir, made)
    return figures


def curve(run_dir: Path) -> list[list[float]]:
    """[[step, loss_nats], ...] of a run, from its metrics.jsonl; a resumed step counts once."""
    points: dict[int, float] = {}
    for record in records(run_dir / "metrics.jsonl"):
        points[record["step"]] = record["loss_nats"]
    return [[step, loss] for step, loss in sorted(points.items())]
