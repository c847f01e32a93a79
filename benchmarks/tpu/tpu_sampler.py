"""The sampler's programs compiled for described TPU slices: memory of a chip, and the time of a decode step.

    python benchmarks/tpu/tpu_sampler.py --out runs/tpu_sampler      each row in a process; finished rows are read
    python benchmarks/tpu/tpu_sampler.py --out runs/tpu_sampler --only 70b_v5p8_80 --again
    python benchmarks/tpu/tpu_sampler.py --out runs/tpu_sampler --write  the table of docs/TPU.md from the files

bfloat16 weights and cache (each in one row int8) cut over the tensor axis, prompts in the bucket of 1,024 tokens and
answers of up to 512; prefill, fill and advance as `tigerjax sample` runs them. `step ms` are the compiler's estimated
cycles of one decode step and the traffic between chips that it cannot hide, as in `tigerjax plan`; a kernel counts with
what it moves at the bandwidth of the memory, or with its own schedule where that is longer. `floor ms` is `floor_ms`:
no step over rows that are as long as they may be is shorter.
`copies GB` are what a decode step copies in arrays as large as a layer's cache or larger: a cache that is written in
place has none. No TPU is needed.
"""

import argparse
import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tigerjax.config import ComputeConfig, MeshConfig, ModelConfig
from tigerjax.model.llama import presets
from tigerjax.plan import flags
from tigerjax.plan.hlo import Instruction, shape_bytes
from tigerjax.plan.kernels import DUMP
from tigerjax.plan.topology import Topology
from tigerjax.plan.trips import Program, trip_count

DOC = Path(__file__).resolve().parents[2] / "docs" / "TPU.md"
START, END = "<!-- sampler: benchmarks/tpu/tpu_sampler.py --write -->", "<!-- end of sampler -->"
BUCKET, ANSWER, PROMPTS = 1024, 512, 8
TRIES = 3  # of a draw, until all rows have a token: at most 1 row in 20 needs a second at top-p 0.95, 1 in 400 a third
MODELS = {"7b": presets.tiger_7b(), "70b": presets.tiger_70b()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One case; the mesh has `data` x `tensor` chips."""

    model: str
    topology: str
    tensor: int
    rows: int
    """Slots of the decode, all chips together."""
    data: int = 1
    int8: bool = False
    """The matrices of the layers in 8 bits, as `--quantise int8` of `tigerjax chat` and `serve` holds them."""
    int8_cache: bool = False
    """Keys and values in 8 bits, as with `--cache-dtype int8`."""
    kernels: bool = False
    """With `compute.decode_kernels=on`."""
    cache_tokens: int | None = None
    """As `compute.cache_tokens`; None: every slot has room for the longest prompt and answer."""


PLAIN = {
    "7b_v5p4_80": Row(model="7b", topology="v5p:2x2x1", tensor=4, rows=80),
    "7b_v5e8_80": Row(model="7b", topology="v5e:2x4", tensor=8, rows=80),
    "70b_v5p8_80": Row(model="70b", topology="v5p:2x2x2", tensor=8, rows=80),
    "70b_v5p8_80_int8": Row(model="70b", topology="v5p:2x2x2", tensor=8, rows=80, int8=True),
    "70b_v5p8_640": Row(model="70b", topology="v5p:2x2x2", tensor=8, rows=640),
    "70b_v5p8_640_int8_cache": Row(model="70b", topology="v5p:2x2x2", tensor=8, rows=640, int8_cache=True),
    "70b_v5p16_160": Row(model="70b", topology="v5p:2x2x4", tensor=8, data=2, rows=160),
    "70b_v6e8_64": Row(model="70b", topology="v6e:2x4", tensor=8, rows=64),
}
CASES = PLAIN | {
    f"{name}_kernels": dataclasses.replace(row, kernels=True) for name, row in PLAIN.items() if not row.int8_cache
}
"""The kernels of a decode step read no cache in int8."""
SLOTS = BUCKET + ANSWER
CASES |= {
    "70b_v5p8_640_kernels_half": dataclasses.replace(CASES["70b_v5p8_640_kernels"], cache_tokens=320 * SLOTS),
    "70b_v5p8_1280_kernels_half": dataclasses.replace(
        CASES["70b_v5p8_640_kernels"], rows=1280, cache_tokens=640 * SLOTS
    ),
}
"""Half of the tokens is enough for all slots at their longest where 10 answers share a prompt of 1,024 tokens: of 12
pages a slot, 8 are those of the prompt."""


def floor_ms(row: Row) -> float:
    """The products take as long as reading this chip's share of their matrices, or as the operations at the chip's
    peak, whichever is longer; and so does attention over rows that are as long as they may be, with the cache. No
    pages are counted as shared, since each row reads its own. The sum of both."""
    from tigerjax.plan import topology

    c, chip, rows = MODELS[row.model], topology.parse(row.topology).chip, row.rows / row.data
    matrices = c.num_layers * c.model_dim * (2 * (c.num_heads + c.num_kv_heads) * c.head_dim + 3 * c.mlp_dim)
    head, of_token = c.model_dim * c.padded_vocab_size, c.num_layers * c.num_kv_heads * c.head_dim
    groups, bytes_each = c.num_heads // c.num_kv_heads, 1 + 4 / c.head_dim if row.int8_cache else 2

    def longer(size: float, flops: float) -> float:
        return max(size / chip.hbm_bandwidth, flops / chip.peak_flops) / row.tensor * 1e3

    products = longer(matrices * (1 if row.int8 else 2) + head * 2, 2 * rows * (matrices + head))
    return products + longer(2 * rows * SLOTS * of_token * bytes_each, 4 * rows * SLOTS * of_token * groups)


class OneStep(Program):
    """The decode program with loops that depend on data: the decode loop itself, once, and the tries of a draw, TRIES
    times."""

    @functools.cached_property
    def trips(self) -> dict[str, int]:
        found = {}
        for computation in self.module.computations.values():
            for i in computation.instructions.values():
                if i.opcode == "while":
                    try:
                        found[i.name] = trip_count(self.module, computation, i)
                    except ValueError:
                        found[i.name] = 1 if computation.name == self.module.entry else TRIES
        return found

    @property
    def decode_loop(self) -> Instruction:
        """The while of the entry: its body is a step."""
        entry = self.module.computations[self.module.entry].instructions.values()
        (loop,) = (i for i in entry if i.opcode == "while")
        return loop

    def copied_bytes(self, least: int) -> int:
        """What copies of at least `least` bytes inside a step write."""
        inside = [v for v in self.visits() if self.decode_loop.name in v.loops and v.instruction.opcode == "copy"]
        sizes = [(sum(shape_bytes(v.instruction.shape)), v.times) for v in inside]
        return sum(size * times for size, times in sizes if size >= least)


def measure(name: str, dump: Path) -> dict[str, Any]:
    """Compiles the three programs of one row in this process, whose libtpu writes schedules into `dump`."""
    from tigerjax.mesh import make_mesh, sharding
    from tigerjax.model import cache
    from tigerjax.plan import topology
    from tigerjax.plan.compile import sharded_bytes
    from tigerjax.plan.estimate import Estimator
    from tigerjax.sample import engine, paging, slots

    row = CASES[name]
    where, config = topology.parse(row.topology), MODELS[row.model]
    compute = ComputeConfig(
        attention="splash", remat="none", dtype="bfloat16", loss_chunk_tokens=1,
        decode_kernels="on" if row.kernels else "off",
    )  # fmt: skip
    shapes = weight_shapes(config, compute)  # before described devices are all there is
    mesh = make_mesh(MeshConfig(data=row.data, tensor=row.tensor), topology.describe(where))

    weights = weights_on(mesh, config, shapes, int8=row.int8)
    whole, rows = sharding(mesh), sharding(mesh, "batch")
    form = cache.Form(1, "int8" if row.int8_cache else None)
    form = paging.in_pages(form, row.cache_tokens, row.rows, SLOTS, row.data)
    shaped = jax.eval_shape(lambda: slots.empty(config, compute, row.rows, SLOTS, ANSWER, None, form))
    state = jax.tree.map(
        lambda s, part: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), part),
        slots.shardings(mesh, form),
        shaped,
    )
    draw = slots.Draw(0.9, 0.95, 0, (2, 60_512, 60_513, 60_514))
    words = jax.ShapeDtypeStruct((PROMPTS, BUCKET), np.int32, sharding=rows)
    figures: dict[str, Any] = {"row": name} | dataclasses.asdict(row)

    with jax.set_mesh(mesh):
        prefill = slots.prefill.lower(weights, words, words, config=config, compute=compute)
    prefill, figures["prefill"] = compiled(prefill, where)
    logits_BV, prompts = prefill.out_info
    made = jax.tree.map(
        lambda info, s: jax.ShapeDtypeStruct(info.shape, info.dtype, sharding=s),
        (logits_BV, prompts),
        prefill.output_shardings,
    )
    some = max(1, row.rows // engine.REFILLS)
    ints = jax.ShapeDtypeStruct((some,), np.int32, sharding=whole)
    keys = jax.ShapeDtypeStruct((some, 2), np.uint32, sharding=whole)
    pages = None
    if form.pages:
        pages = jax.ShapeDtypeStruct((some, SLOTS // form.page_slots), np.int32, sharding=whole)
    starts = slots.Starts._make([ints, ints, keys, ints, pages])
    fill = slots.fill.lower(state, *made, starts, draw=draw, mesh=mesh)
    _, figures["fill"] = compiled(fill, where)
    enough = jax.ShapeDtypeStruct((), np.int32, sharding=whole)
    with jax.set_mesh(mesh):
        advance = slots.advance.lower(weights, state, enough, config=config, compute=compute, draw=draw, mesh=mesh)
    advance, figures["advance"] = compiled(advance, where)
    layer_bytes = sharded_bytes(state.cache.keys) // config.num_layers
    program = OneStep(advance.as_text())
    estimator = Estimator(program, mesh, where)
    waits_s = beyond_memory(program, estimator, dump)
    step_s = estimator.times_inside(program.decode_loop).total + waits_s
    return figures | {
        "weights_gb": sharded_bytes(weights) / 1e9,
        "cache_gb": sharded_bytes(state.cache) / 1e9,
        "copies_gb": program.copied_bytes(layer_bytes) / 1e9,
        "step_ms": step_s * 1e3,
        "beyond_memory_ms": waits_s * 1e3,
        "tokens_per_s": row.rows / step_s,
    }


def beyond_memory(program: OneStep, estimator: Any, dump: Path) -> float:
    """Seconds of a step in which kernels run longer, by their own schedules, than what they move takes."""
    from tigerjax.plan import kernels
    from tigerjax.plan.estimate import says_what_it_moves

    paths = [path for path in dump.glob("*-decode_*-final_bundles.txt") if "analysis" not in path.name]
    inside = [v for v in program.visits() if program.decode_loop.name in v.loops and says_what_it_moves(v.instruction)]
    cycles: dict[tuple[str, str, float], int] = {}

    def kind(i: Instruction) -> tuple[str, str, float]:
        return i.name.split(".")[0], i.shape, estimator.moved_seconds(i)

    for visit in inside:  # of kernels that are alike one is written
        name = re.escape(visit.instruction.name)
        for path in paths:
            if re.search(rf"-{name}[.-]", path.name):  # as in 1796-decode_product.6.q_ref-71-final_bundles.txt
                cycles[kind(visit.instruction)] = kernels.cycles(path.read_text(encoding="utf-8"))
    return sum(
        v.times * max(0.0, cycles[kind(v.instruction)] / estimator.chip.clock_hz - kind(v.instruction)[2])
        for v in inside
    )


def weights_on(mesh: Any, config: ModelConfig, shapes: Any, *, int8: bool) -> Any:
    """The weights as the chips hold them: in bfloat16, or the matrices of the layers in int8 with float32 scales."""
    from tigerjax.model.families import weight_shardings
    from tigerjax.model.quantised import MATRICES, Quantised, held, held_sharding
    from tigerjax.model.weights import get, leaves, nested

    cuts = weight_shardings(config, "llama", mesh)

    def one(path: str, shape: Any) -> Any:
        cut = get(cuts, path)
        if not int8 or path not in MATRICES:
            return jax.ShapeDtypeStruct(shape.shape, np.dtype("bfloat16"), sharding=cut)
        made = jax.eval_shape(lambda w: held(path, w, "int8"), shape)
        parts = zip(made, held_sharding(path, cut, shape.shape, "int8"), strict=True)
        return Quantised(*(jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s) for a, s in parts))

    return nested((path, one(path, shape)) for path, shape in leaves(shapes))


def weight_shapes(config: ModelConfig, compute: ComputeConfig) -> Any:
    import flax.linen as nn

    from tigerjax.model import decoder
    from tigerjax.model.layers import init

    return jax.eval_shape(lambda: nn.unbox(init(decoder.LanguageModel(config, compute), jax.random.key(0))))


def compiled(lowered: Any, where: Topology) -> tuple[Any, dict[str, float]]:
    """The program, and its peak memory of a chip and compile time."""
    started = time.perf_counter()
    program = lowered.compile(compiler_options=flags.of(where))
    return program, {
        "peak_gb": program.memory_analysis().peak_memory_in_bytes / 1e9,
        "compile_s": time.perf_counter() - started,
    }


def table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| model | slice | tensor x data | slots | weights GB | cache GB | prefill peak GB | decode peak GB |"
        " copies GB | floor ms | step ms | tokens/s at most |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {f['model']}{', int8' if f['int8'] else ''}{', int8 cache' if f['int8_cache'] else ''}"
        f"{', kernels' if f['kernels'] else ''}"
        f"{', half of the tokens' if f.get('cache_tokens') else ''} |"
        f" {f['topology']} |"
        f" {f['tensor']} x {f['data']} | {f['rows']} | {f['weights_gb']:.1f} |"
        f" {f['cache_gb']:.1f} | {f['prefill']['peak_gb']:.1f} | {f['advance']['peak_gb']:.1f} | {f['copies_gb']:.2f} |"
        f" {floor_ms(CASES[f['row']]):.1f} | {f['step_ms']:.1f} | {f['tokens_per_s']:,.0f} |"
        for f in found
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--again", action="store_true", help="compile also what is there")
    parser.add_argument("--write", action="store_true", help="also put the table into docs/TPU.md")
    parser.add_argument("--row", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--dump", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.row:
        print(json.dumps(measure(a.row, a.dump)))
        return
    a.out.mkdir(parents=True, exist_ok=True)
    found = []
    for name in a.only:
        path = a.out / f"{name}.json"
        if a.again or not path.is_file():
            with tempfile.TemporaryDirectory() as dump:
                told = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {DUMP.format(dump) if CASES[name].kernels else ''}"
                done = subprocess.run(
                    [sys.executable, __file__, "--out", str(a.out), "--row", name, "--dump", dump],
                    env=os.environ | {"LIBTPU_INIT_ARGS": told.strip()},
                    capture_output=True,
                    text=True,
                )
            if done.returncode:
                raise SystemExit(f"{name} failed: {done.stderr.strip()[-1500:]}")
            path.write_text(done.stdout.splitlines()[-1] + "\n", encoding="utf-8")
        found.append(json.loads(path.read_text(encoding="utf-8")))
        print(json.dumps(found[-1]), flush=True)
    print(table(found))
    if a.write:
        text = DOC.read_text(encoding="utf-8")
        before, rest = text.split(START)
        DOC.write_text(f"{before}{START}\n{table(found)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
