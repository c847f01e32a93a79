"""The rows of docs/TPU.md: models on slices, and what others reach there. tpu_table.py compiles them."""

import dataclasses

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

MODELS = {
    "7b": {32_000: presets.llama2_7b(), 60_928: presets.tiger_7b()},
    "13b": {32_000: presets.llama2_13b(), 60_928: presets.tiger_13b()},
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
SMALL_7B = Row(model="7b", topology="v5p:2x2x1", fsdp=4, rows=4, remat="save_up", splash=square(1024, fused=True))
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
    "7b_v5p4_4rows_1024": SMALL_7B,
    "7b_v5p4_4x1row": dataclasses.replace(SMALL_7B, micro_batches=4),
    "13b_v5p4_2x2rows": dataclasses.replace(SMALL_7B, model="13b", micro_batches=2),
    "13b_v5p4_4x1row": dataclasses.replace(SMALL_7B, model="13b", micro_batches=4),
    "13b_v5p8_4rows": dataclasses.replace(SMALL_7B, model="13b", topology="v5p:2x2x2", fsdp=8),
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
