"""How cost grows: the exponent of time over layers, rows, length, candidates and corpus, with its residual.

    python benchmarks/speed/growth.py --json growth.json [--repeats 3] [--tiny]

Each size runs in turns with the others; the exponent is the slope of log(time) over log(size) through the medians, the
residual the largest distance of a median from that line, in percent. Theory: 1 for layers, rows, candidates and
corpus; between 1 (products with weights) and 2 (attention) for length. Constant costs pull an exponent below 1.
Training and sampling are timed by the clock, text by CPU seconds.
"""

import argparse
import functools
import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_throughput import EMBEDDED, corpus, exponent
from turns import Row, clocked, cpu, finish, turns

LAYERS, ROWS, LENGTHS = (4, 8, 16), (4, 8, 16), (256, 512, 1024, 2048)
CANDIDATES, MEGABYTES = (20, 40, 80), (2.0, 4.0, 8.0)
BASE = {"layers": 4, "rows": 4, "length": 256}
WIDTH, MLP, VOCAB = 128, 384, 1024
NEW_TOKENS, PROMPTS = 32, 8


def step(layers: int, rows: int, length: int) -> Callable[[], float]:
    """A compiled training step; calling it gives its seconds."""
    import jax
    from train_step import Run, random_batch

    from tigerjax.config import ComputeConfig, MeshConfig, ModelConfig, OptimConfig
    from tigerjax.mesh import make_mesh
    from tigerjax.train.objective import token_objective
    from tigerjax.train.optim import make_optimizer
    from tigerjax.train.state import init_state
    from tigerjax.train.step import compile_step

    model = ModelConfig(
        num_layers=layers, model_dim=WIDTH, mlp_dim=MLP, num_heads=4, num_kv_heads=2, head_dim=32, vocab_size=VOCAB,
        padded_vocab_size=VOCAB, rope_base=10_000.0, norm_eps=1e-5,
    )  # fmt: skip
    optim = OptimConfig(
        peak_lr=1e-4, final_lr_fraction=1.0, warmup_steps=1, total_steps=1000, beta1=0.9, beta2=0.95, eps=1e-8,
        weight_decay=0.1, clip_norm=1.0,
    )  # fmt: skip
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    compute = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024)
    run = Run(model, compute, MeshConfig())
    objective, tx = token_objective(run, mesh), make_optimizer(optim)
    state, compiled = init_state(objective, tx, mesh, seed=0), compile_step(objective, tx, optim, mesh)
    batch = jax.device_put(random_batch(rows, length, VOCAB), mesh.devices.flat[0])

    def once() -> float:
        nonlocal state

        def work() -> None:
            nonlocal state
            state, values = compiled(state, batch)
            jax.block_until_ready((state, values))

        return clocked(work)

    once()  # compiles
    once()
    return once


def sampled(candidates: int) -> Callable[[], float]:
    """Seconds of so many candidates to each of 8 prompts, in 80 slots."""
    import flax.linen as nn
    import jax
    import numpy as np
    from sampler import CONFIG, NumberTokenizer

    from tigerjax.checkpoint.loaded import Loaded
    from tigerjax.config import FLOAT32
    from tigerjax.model import decoder
    from tigerjax.sample.engine import SamplingConfig, generate

    weights = _weights(CONFIG, nn, jax, decoder, FLOAT32)
    rng = np.random.default_rng(0)
    prompts = [{"prompt_id": str(i), "text": " ".join(map(str, rng.integers(5, 20_000, 20)))} for i in range(PROMPTS)]
    model = Loaded(config=CONFIG, weights=weights, tokenizer=NumberTokenizer(), compute=FLOAT32, sha256="b")

    def draw(seed: int) -> list[Any]:
        return list(generate(model, prompts, SamplingConfig(n=candidates, max_new_tokens=NEW_TOKENS, seed=seed)))

    draw(seed=0)  # compiles
    return lambda: clocked(lambda: draw(seed=1))


@functools.cache
def _weights(config: Any, nn: Any, jax: Any, decoder: Any, compute: Any) -> Any:
    from tigerjax.model.layers import init

    return nn.unbox(init(decoder.LanguageModel(config, compute), jax.random.key(0)))


def text(stage: str, folder: Path, megabytes: float) -> Callable[[], float]:
    """CPU seconds of a stage of the text, from a file to files, in a fresh folder each time."""
    from tigerjax.files import jsonl
    from tigerjax.text.clean import clean_files
    from tigerjax.text.dedup import against_sft_files, dedup_files

    given = folder / f"{megabytes}.jsonl"
    if not given.is_file():
        jsonl.write_jsonl(given, corpus(megabytes, seed=0))

    def once() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            out = Path(name) / "out"
            if stage == "clean":
                return cpu(lambda: clean_files([given], out))
            if stage == "near":
                return cpu(lambda: dedup_files("near", [given], out))
            return cpu(lambda: against_sft_files([given], [EMBEDDED / "sft.jsonl"], out))

    return once


def grown(name: str, size: int) -> Callable[[], float]:
    """`step` with one of its sizes changed."""
    return step(**(BASE | {name: size}))


def fit(sizes: list[float], seconds: list[float]) -> tuple[float, float]:
    """(exponent, residual): the slope of log over log, and the largest |measured / fitted - 1|."""
    slope = exponent(sizes, seconds)
    level = statistics.mean(math.log(s) - slope * math.log(x) for x, s in zip(sizes, seconds, strict=True))
    fitted = [math.exp(level) * x**slope for x in sizes]
    return slope, max(abs(s / f - 1) for s, f in zip(seconds, fitted, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes only: does it run?")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    few = slice(0, 2) if args.tiny else slice(None)
    rows, raw = list[Row](), dict[str, Any]()

    def measure(name: str, theory: str, sizes: tuple[Any, ...], make: Callable[[Any], Callable[[], float]]) -> None:
        timed = turns(args.repeats, {str(size): make(size) for size in sizes[few]})
        seconds = [statistics.median(values) for values in timed.values()]
        slope, residual = fit([float(size) for size in sizes[few]], seconds)
        rows.append(Row(f"growth with {name}", f"exponent, residual {residual:.1%}", slope, None, theory, "as is"))
        raw[name] = {"seconds": timed, "exponent": slope, "residual": residual}

    for name, theory, sizes in (("layers", "1", LAYERS), ("rows", "1", ROWS), ("length", "1 to 2", LENGTHS)):
        measure(f"{name}, training step", f"theory: {theory}", sizes, functools.partial(grown, name))
    measure("candidates, sampler", "theory: 1", CANDIDATES, sampled)
    with tempfile.TemporaryDirectory() as folder:
        for stage in ("clean", "near", "against-sft"):
            measure(f"corpus, {stage}", "theory: 1", MEGABYTES, functools.partial(text, stage, Path(folder)))
    finish(rows, raw, args.json)


if __name__ == "__main__":
    main()
