"""Llama-2 steps compiled for described TPU slices: memory and static time beside MaxText's at its published settings,
and the least time of a step beside what others have published of real ones.

    python benchmarks/tpu/tpu_table.py --out runs/tpu_table         each row in a process; finished rows are read
    python benchmarks/tpu/tpu_table.py --out runs/tpu_table --only 70b_v5p64_2rows --again
    python benchmarks/tpu/tpu_table.py --out runs/tpu_table --vocab 60928
    python benchmarks/tpu/tpu_table.py --out runs/vmem48 --flag xla_tpu_scoped_vmem_limit_kib=49152
    python benchmarks/tpu/tpu_table.py --out runs/tpu_table --write      tables of docs/TPU.md, of whole sets of rows

float32 weights and Adam, bfloat16 compute, splash attention, L = 4096 unless the row says otherwise. Every row is the
step that `tigerjax train` runs, compiled by libtpu with the flags of tigerjax/plan/libtpu_flags/. No TPU is needed. A
row is DIR/NAME_VOCAB.json: the figures of `tigerjax plan --json`, and of the compiling process its resident memory and
its CPU seconds; halved, those are the least that it takes on two cores.
"""

import argparse
import dataclasses
import json
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigerjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    MeshConfig,
    PipelineConfig,
    Quantise,
    Reduce,
    Remat,
    RunConfig,
    SplashConfig,
)
from tigerjax.model.llama import presets
from tigerjax.model.llama.presets import square, wide

DOC = Path(__file__).resolve().parents[2] / "docs" / "TPU.md"
MODELS = {
    "7b": {32_000: presets.llama2_7b(), 60_928: presets.tiger_7b()},
    "70b": {32_000: presets.llama2_70b(), 60_928: presets.tiger_70b()},
}
"""By name and padded vocabulary."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One case, and what others reach in it."""

    model: str
    topology: str
    rows: int
    """Of a device."""
    remat: Remat
    peak_gb: float | None = None
    static_s: float | None = None
    """What MaxText's step takes: peak GB of a device, and static seconds."""
    published: tuple[int, float] | None = None
    """Tokens per second and chip, and MFU, that others measured on such chips (docs/TPU.md names them)."""
    micro_batches: int = 1
    quantise: Quantise = "none"
    reduce: Reduce = "auto"
    splash: SplashConfig = dataclasses.field(default_factory=SplashConfig)
    fsdp: int
    sequence: int = 1
    """Devices that share every row, and so hold `rows` rows together."""
    seq_len: int = 4096
    slices: int = 1
    """Each with a copy of the model."""
    data_once: bool = True
    """Of several slices: gradients are added once a step (`mesh.data_once`)."""
    stage: int = 1
    pipeline: PipelineConfig = dataclasses.field(default_factory=PipelineConfig)


ON_V5P = Row(model="70b", topology="v5p:4x4x4", fsdp=64, rows=2, remat="save_qkv", peak_gb=58.0, static_s=11.20)
ON_TPU7X = Row(
    model="70b",
    topology="tpu7x:4x4x4",
    fsdp=128,
    rows=2,
    seq_len=8192,
    remat="save_qkv",
    splash=wide(),
    published=(2687, 0.523),
)
LONG_ON_V5P = Row(
    model="70b",
    topology="v5p:8x8x8",
    fsdp=64,
    sequence=8,
    rows=4,
    seq_len=32_768,
    micro_batches=4,
    remat="save_dots",
    splash=dataclasses.replace(square(1024, fused=True), block_kv_dkv=4096),
)
LONG_ON_TPU7X = dataclasses.replace(
    ON_TPU7X,
    topology="tpu7x:8x8x8",
    fsdp=128,
    sequence=8,
    rows=4,
    seq_len=32_768,
    splash=wide(block_q=2048),
    published=None,
)
SLICES_7B = Row(model="7b", topology="v5p:4x4x4", fsdp=64, rows=4, remat="save_up")
"""Cases that other rows vary. A step of the long ones has 16,384 tokens for every device."""

ROWS = {
    "7b_v5p4_4rows": Row(
        model="7b", topology="v5p:2x2x1", fsdp=4, rows=4, remat="save_up", peak_gb=77.2, static_s=2.41
    ),
    "70b_v5p64_2rows": ON_V5P,
    "70b_v5p64_4rows": Row(
        model="70b", topology="v5p:4x4x4", fsdp=64, rows=4, remat="save_qkv", peak_gb=96.2, static_s=22.19
    ),
    "70b_v5p256_4rows": Row(
        model="70b", topology="v5p:4x8x8", fsdp=256, rows=4, remat="save_qkv", peak_gb=81.7, static_s=22.39
    ),
    "70b_v5p64_pipelined": Row(
        model="70b",
        topology="v5p:4x4x4",
        stage=4,
        fsdp=16,
        rows=2,
        remat="save_kv_up",
        splash=square(1024, fused=True),
        pipeline=PipelineConfig(microbatches=4, rounds=20),
        peak_gb=89.2,
        static_s=23.23,
    ),
    "70b_v5e256_2048": Row(
        model="70b",
        topology="v5e:16x16",
        fsdp=256,
        rows=2,
        remat="full",
        reduce="ring",
        seq_len=2048,
        peak_gb=16.0,
        static_s=14.13,
    ),
    "70b_v5p64_2x1rows": Row(
        model="70b",
        topology="v5p:4x4x4",
        fsdp=64,
        rows=2,
        micro_batches=2,
        remat="save_dots",
        splash=square(1024, fused=True),
        published=(692, 0.654),
    ),
    "70b_v5p64_2rows_int8": dataclasses.replace(
        ON_V5P, quantise="int8", peak_gb=None, static_s=None, published=(692, 0.654)
    ),
    "70b_v6e256_1row": Row(
        model="70b",
        topology="v6e:16x16",
        fsdp=256,
        rows=1,
        remat="save_residual",
        splash=square(1024, fused=True, multiplied=512),
        published=(905, 0.438),
    ),
    "70b_tpu7x64_8192": ON_TPU7X,
    "70b_v5p512_4k": dataclasses.replace(
        LONG_ON_V5P, fsdp=512, sequence=1, seq_len=4096, splash=square(1024, fused=True)
    ),
    "70b_v5p512_8k": dataclasses.replace(
        LONG_ON_V5P, fsdp=512, sequence=1, seq_len=8192, rows=2, micro_batches=2, remat="save_up"
    ),
    "70b_v5p512_32k": LONG_ON_V5P,
    "70b_v5p512_128k": dataclasses.replace(
        LONG_ON_V5P, seq_len=131_072, rows=1, micro_batches=1, remat="save_attention"
    ),
    "70b_tpu7x512_4k": dataclasses.replace(LONG_ON_TPU7X, fsdp=1024, sequence=1, seq_len=4096, splash=wide()),
    "70b_tpu7x512_8k": dataclasses.replace(LONG_ON_TPU7X, fsdp=1024, sequence=1, seq_len=8192, rows=2, splash=wide()),
    "70b_tpu7x512_32k": dataclasses.replace(LONG_ON_TPU7X, fsdp=512, sequence=2, rows=1),
    "70b_tpu7x512_32k_8shares": LONG_ON_TPU7X,
    "70b_tpu7x512_128k": dataclasses.replace(LONG_ON_TPU7X, seq_len=131_072, rows=1),
    "7b_v5p64": SLICES_7B,
    "7b_2slices": dataclasses.replace(SLICES_7B, slices=2),
    "7b_2slices_4x1row": dataclasses.replace(SLICES_7B, slices=2, micro_batches=4),
    "7b_2slices_4x1row_auto": dataclasses.replace(SLICES_7B, slices=2, micro_batches=4, data_once=False),
    "7b_2slices_16x1row": dataclasses.replace(SLICES_7B, slices=2, rows=16, micro_batches=16),
    "7b_2slices_16x1row_auto": dataclasses.replace(SLICES_7B, slices=2, rows=16, micro_batches=16, data_once=False),
    "7b_4slices_4x1row": dataclasses.replace(SLICES_7B, slices=4, micro_batches=4),
    "7b_4slices_4x1row_auto": dataclasses.replace(SLICES_7B, slices=4, micro_batches=4, data_once=False),
    "70b_tpu7x64_8192_fp8": dataclasses.replace(ON_TPU7X, quantise="fp8", published=(4128, 0.804)),
    "70b_tpu7x64_8192_fp8_full": dataclasses.replace(ON_TPU7X, quantise="fp8_full", published=(4128, 0.804)),
}


def config(row: Row, vocab: int, layers: int | None = None) -> RunConfig:
    """The run of a row; with `layers`, that of a model of so many."""
    batch_rows, model = row.rows * row.fsdp * row.stage * row.slices, MODELS[row.model][vocab]
    return RunConfig(
        name=f"{row.model}_{vocab}",
        model=model if layers is None else dataclasses.replace(model, num_layers=layers),
        compute=ComputeConfig(
            attention="splash", remat=row.remat, dtype="bfloat16", loss_chunk_tokens=batch_rows * row.seq_len // 8,
            splash=row.splash, quantise=row.quantise, reduce=row.reduce,
        ),
        mesh=MeshConfig(
            data=row.slices, fsdp=row.fsdp, sequence=row.sequence, stage=row.stage,
            data_once=row.data_once and row.slices > 1,
        ),
        pipeline=row.pipeline,
        optim=presets.adamw(
            peak_lr=1e-4, warmup_steps=10, total_steps=1000, weight_decay=0.1,
            gradient_accumulation_steps=row.micro_batches,
        ),
        data=DataConfig(mixture="none", modules=(), tokenizer="none", cache_dir="none", seq_len=row.seq_len),
        checkpoint=CheckpointConfig(every_steps=100, keep=1),
        global_batch_size=batch_rows,
        seed=0,
        log_every_steps=10,
    )  # fmt: skip


def measure(name: str, vocab: int, other: dict[str, str], layers: int | None = None) -> dict[str, Any]:
    """Compiles one row in this process; the figures of its plan. `other` are flags beside those of launch/, `layers`
    those of `config`."""
    from tigerjax.plan import figures, flags, topology
    from tigerjax.plan.compile import compile_for

    row = ROWS[name]
    run, where = config(row, vocab, layers), topology.parse(row.topology, row.slices)
    compiled = compile_for(run, where, options=flags.of(where) | other)
    used = resource.getrusage(resource.RUSAGE_SELF)  # before the program is read
    shown = figures.figures(run, where, compiled)
    process = {"process_cpu_s": used.ru_utime + used.ru_stime, "process_rss_gb": used.ru_maxrss * 1024 / 1e9}
    return shown | {"row": name, "vocab": vocab, "remat": row.remat} | process


HEAD = (
    "row", "vocabulary", "remat", "peak GB", "static s", "MFU at most", "MaxText GB", "MaxText s", "CPU s / 2",
    "RSS GB",
)  # fmt: skip
PUBLISHED_HEAD = (
    "row", "vocabulary", "remat", "peak GB", "static s", "attention s", "not hidden s", "step s", "MFU at most",
    "tokens/s/chip at most", "published MFU", "published tokens/s/chip", "CPU s / 2", "RSS GB",
)  # fmt: skip
LONG_HEAD = (
    "row", "vocabulary", "remat", "peak GB", "static s", "attention s", "not hidden s", "step s", "MFU at most",
    "tokens/s/chip at most", "fsdp x sequence", "CPU s / 2", "RSS GB",
)  # fmt: skip
SLICES_HEAD = (
    "row", "vocabulary", "remat", "peak GB", "static s", "attention s", "not hidden s", "step s", "MFU at most",
    "tokens/s/chip at most", "between slices GB, s", "CPU s / 2", "RSS GB",
)  # fmt: skip
TABLES = {
    "tpu_table": (HEAD, [name for name, row in ROWS.items() if row.peak_gb is not None]),
    "tpu_published": (PUBLISHED_HEAD, [name for name, row in ROWS.items() if row.published is not None]),
    "tpu_long": (LONG_HEAD, [name for name in ROWS if "512_" in name]),
    "tpu_slices": (SLICES_HEAD, ["7b_v5p64", *(name for name, row in ROWS.items() if row.slices > 1)]),
}
"""Of docs/TPU.md: the comment around each, its head and its rows."""


def cells(name: str, shown: dict[str, Any]) -> list[str]:
    row = ROWS[name]
    begin = [name, f"{shown['vocab']:,}", shown["remat"], f"{shown['peak_gb']:.1f}"]
    end = [f"{shown['process_cpu_s'] / 2:.0f}", f"{shown['process_rss_gb']:.1f}"]
    mfu = f"{shown['mfu_bound']:.1%}" if shown["fits"] else ""
    if row.peak_gb is not None:
        static = f"{shown['static_step_s']:.2f}" if shown["fits"] else "does not fit"
        return [*begin, static, mfu, f"{row.peak_gb:.1f}", f"{row.static_s:.2f}", *end]
    times = ["does not fit", "", "", ""]
    if shown["fits"]:
        times = [f"{shown[n]:.2f}" for n in ("static_step_s", "attention_s", "exposed_comm_s", "step_s")]
    tokens = f"{shown['tokens_per_s_per_chip']:,.0f}" if shown["fits"] else ""
    if name in TABLES["tpu_slices"][1]:
        between = [c for c in shown["collectives"] if "data" in c["axis"].split("+")]
        crossing = f"{sum(c['bytes'] for c in between) / 1e9:.2f}, {sum(c['seconds'] for c in between):.3f}"
        return [*begin, *times, mfu, tokens, crossing, *end]
    if row.published is None:
        return [*begin, *times, mfu, tokens, f"{row.fsdp} x {row.sequence}", *end]
    rate, share = row.published
    return [*begin, *times, mfu, tokens, f"{share:.1%}", f"{rate:,}", *end]


def line(cells: Sequence[str]) -> str:
    return f"{cells[0]:22} {cells[1]:10} {cells[2]:14} " + " ".join(f"{text:>11}" for text in cells[3:])


def write(doc: Path, mark: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Puts a table into a page, between the comments of this mark."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    block = "\n".join([f"<!-- {mark} -->", "", *lines, "", f"<!-- /{mark} -->"])
    text = doc.read_text(encoding="utf-8")
    text, found = re.subn(f"<!-- {mark} -->.*<!-- /{mark} -->", lambda _: block, text, flags=re.DOTALL)
    if found != 1:
        raise SystemExit(f"{doc} must hold <!-- {mark} --> … <!-- /{mark} --> once")
    doc.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tpu_table"), help="folder of the rows' JSON files")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--vocab", nargs="+", type=int, choices=MODELS["7b"], default=list(MODELS["7b"]))
    parser.add_argument("--again", action="store_true", help="compile rows that have a file already, too")
    parser.add_argument("--flag", nargs="+", default=[], metavar="NAME=VALUE", help="of libtpu, over those of launch/")
    parser.add_argument("--layers", type=int, help="of a smaller model, to compare two programs; give another --out")
    parser.add_argument("--write", action="store_true", help="compile nothing; put the rows that are there into docs")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.in_process:
        path = a.out / f"{a.only[0]}_{a.vocab[0]}.json"
        shown = measure(a.only[0], a.vocab[0], dict(f.split("=", 1) for f in a.flag), a.layers)
        path.write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")
        return
    a.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[list[str]]] = {name: [] for name in ROWS}
    for name in a.only:
        for vocab in a.vocab:
            path = a.out / f"{name}_{vocab}.json"
            if not a.write and (a.again or not path.is_file()):  # a process each: libtpu keeps memory
                command = [sys.executable, __file__, "--in-process", "--out", str(a.out)]
                command += ["--layers", str(a.layers)] if a.layers else []
                command += ["--only", name, "--vocab", str(vocab), *(["--flag", *a.flag] if a.flag else [])]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(f"{name} {vocab} failed: {done.stderr.strip()[-500:]}", flush=True)
                    continue
            if path.is_file():
                rows[name].append(cells(name, json.loads(path.read_text(encoding="utf-8"))))
                print(line(rows[name][-1]), flush=True)
    for mark, (head, names) in TABLES.items() if a.write else ():
        if lacking := [name for name in names if not rows[name]]:
            print(f"{mark} stays as it is: {', '.join(lacking)} have no file in {a.out}")
        else:
            write(DOC, mark, head, [cells for name in names for cells in rows[name]])


if __name__ == "__main__":
    # Before jax is imported, here and in the processes that compile.
    from tigerjax.plan.topology import set_compiler_environment

    set_compiler_environment()
    main()
