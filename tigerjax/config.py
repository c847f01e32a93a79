"""The config dataclasses of a run: frozen, keyword-only, validated when built, dumped one line a value.

A config file under `configs/` is Python with one function, `config() -> RunConfig`. The command line overrides fields
by dotted name (`--optim.peak-lr 3e-4`); whatever comes out is validated again here. A number that lives here has no
default in the function that uses it. Rounds of rejection sampling have theirs in `tigerjax/align/config.py`.
"""

import dataclasses
import importlib.util
import math
import traceback
from pathlib import Path
from typing import Any, Literal

from tigerjax.errors import ConfigError, near_miss
from tigerjax.health import HealthConfig

Attention = Literal["reference", "splash", "cudnn"]
Remat = Literal[
    "none",
    "full",
    "save_attention",
    "save_qkv",
    "save_residual",
    "save_up",
    "save_dots",
    "offload_qkv",
    "offload_residual",
]
Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes of one Llama. Everything that changes the checkpoint is here, nothing else is."""

    num_layers: int  # L: decoder blocks
    model_dim: int  # D: features of the residual stream
    mlp_dim: int  # F: features inside the gated mlp
    num_heads: int  # N: query heads
    num_kv_heads: int  # K: key and value heads, each shared by N / K query heads
    head_dim: int  # H: features of one head; N x H may differ from D
    vocab_size: int
    """Entries of the tokenizer, specials included: ids in [0, vocab_size) are real."""
    padded_vocab_size: int
    """Rows of the embedding and columns of the head; the padding is masked to -inf wherever logits are used."""
    rope_base: float  # Base of the rotary angles; 10,000 for Llama-2
    norm_eps: float  # Added to the mean square under RMSNorm's root

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_heads={self.num_heads} is no multiple of num_kv_heads={self.num_kv_heads}; change one"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim={self.head_dim} is odd; rotary embedding pairs dimensions, make it even")
        if self.padded_vocab_size < self.vocab_size:
            raise ConfigError(f"padded_vocab_size={self.padded_vocab_size} < vocab_size={self.vocab_size}; raise it")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SplashConfig:
    """Blocks of the splash kernel, in tokens: larger ones keep the matrix units busier and need more VMEM."""

    block_q: int = 512  # Queries of one block, forward
    block_kv: int = 1024
    """Keys brought into VMEM at one time; block_kv_compute of them are multiplied at one time."""
    block_kv_compute: int = 512  # Keys multiplied at one time, forward
    block_q_dkv: int = 512
    """The backward kernel of k and v, and of q too with fused_backward."""
    block_kv_dkv: int = 1024  # Keys in VMEM at one time, backward of k and v
    block_kv_dkv_compute: int = 512  # Keys multiplied at one time, backward of k and v
    block_q_dq: int = 512
    """The backward kernel of q; not used with fused_backward."""
    block_kv_dq: int = 1024  # Keys in VMEM at one time, backward of q
    fused_backward: bool = False
    """One backward kernel of 5 matrix products instead of two of 7; partial gradients of q, one for each block of
    block_kv_dkv keys, are held in the compute dtype and added afterwards."""
    interpret: bool = False
    """Run the kernel in Pallas' interpreter, on any device and slowly: for tests."""

    def __post_init__(self) -> None:
        for name, block in self.blocks().items():
            if block < 128 or block % 128:
                raise ConfigError(f"compute.splash.{name}={block} must be a multiple of the TPU's 128 lanes")
        for outer, inner in (("block_kv", "block_kv_compute"), ("block_kv_dkv", "block_kv_dkv_compute")):
            if getattr(self, outer) % getattr(self, inner):
                raise ConfigError(
                    f"compute.splash.{outer}={getattr(self, outer)} is no multiple of {inner}={getattr(self, inner)};"
                    " change one"
                )

    def blocks(self) -> dict[str, int]:
        """The block sizes that are used, by field; each divides the row length."""
        unused = ("block_q_dq", "block_kv_dq") if self.fused_backward else ()
        names = [f.name for f in dataclasses.fields(self) if f.name.startswith("block_")]
        return {name: getattr(self, name) for name in names if name not in unused}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """How the model is computed; never changes what a checkpoint means."""

    attention: Attention  # splash: the TPU kernel; cudnn: NVIDIA's; reference: plain products, anywhere
    remat: Remat  # What a layer keeps for the backward pass; docs/MEMORY.md has their cost
    dtype: Dtype
    """Of activations; weights and optimiser state are float32."""
    loss_chunk_tokens: int
    """Tokens whose logits exist at one time, over all rows of a device group: bounds loss memory."""
    splash: SplashConfig = SplashConfig()
    """Read when attention is 'splash'."""

    def __post_init__(self) -> None:
        if self.loss_chunk_tokens < 1:
            raise ConfigError(f"loss_chunk_tokens={self.loss_chunk_tokens} must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MeshConfig:
    """Degrees of parallelism; their product is the number of devices."""

    data: int = 1  # Slices that share nothing but gradients
    stage: int = 1  # Stages of the pipeline over the layers
    fsdp: int = 1  # Shards of weights along D, and of the rows
    tensor: int = 1  # Shards of heads, mlp and vocabulary

    def __post_init__(self) -> None:
        for name in ("data", "stage", "fsdp", "tensor"):
            if getattr(self, name) < 1:
                raise ConfigError(f"mesh.{name}={getattr(self, name)} must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PipelineConfig:
    """How the layers run over mesh.stage (schedule: tigerjax/model/pipeline.py); without stages both are 1."""

    microbatches: int = 1
    """Parts of a batch (of a micro-batch of optim.accumulate) that follow each other through the stages (M)."""
    rounds: int = 1
    """Virtual stages a stage: times that a microbatch passes through all stages (V). 1 is GPipe; more shrink the
    bubble, which is (stage - 1) / (rounds * microbatches + stage - 1)."""

    def __post_init__(self) -> None:
        for name in ("microbatches", "rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"pipeline.{name}={getattr(self, name)} must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW with warm-up and cosine decay."""

    peak_lr: float  # Learning rate at the end of the warm-up
    final_lr_fraction: float
    """The cosine ends at peak_lr * final_lr_fraction."""
    warmup_steps: int  # Steps of linear rise from 0
    total_steps: int  # Steps of the run, warm-up included
    beta1: float  # Decay of Adam's running mean of gradients
    beta2: float  # Decay of the running mean of their squares
    eps: float  # Added to the root of the second moment
    weight_decay: float
    """Applied to matrices only: norm scales are left alone."""
    clip_norm: float | None  # Global gradient norm is cut to it; None leaves it
    first_moment_dtype: Dtype = "float32"
    """Of Adam's running mean of gradients; bfloat16 saves 2 bytes a weight. The second moment stays float32."""
    accumulate: int = 1
    """Micro-batches a step; their (sum, weight) losses are added before the one division."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.total_steps:
            raise ConfigError(f"warmup_steps={self.warmup_steps} must be in [0, total_steps={self.total_steps})")
        if self.accumulate < 1:
            raise ConfigError(f"accumulate={self.accumulate} must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which rows are trained on."""

    mixture: str
    """Name in the SeqIO registry."""
    modules: tuple[str, ...]
    """Python modules whose import registers the mixture, such as data_mixtures.quickstart."""
    tokenizer: str
    """Tokenizer directory; its hash must match the cached rows and the checkpoint."""
    cache_dir: str
    """Where `tigerjax data cache` keeps the rows of each source."""
    seq_len: int
    """Tokens in a row (T)."""

    def __post_init__(self) -> None:
        if self.seq_len < 2:
            raise ConfigError(f"data.seq_len={self.seq_len} must be at least 2")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """When to save, and how many to keep: the newest `keep`, and the multiples of `keep_every_steps`."""

    every_steps: int  # Steps between saves; the last step is saved too
    keep: int  # Newest checkpoints that stay
    keep_every_steps: int | None = None  # Multiples of it stay for good
    init_from: str | None = None
    """Checkpoint or run directory whose weights start this run at step 0; None starts from random weights."""

    def __post_init__(self) -> None:
        if self.every_steps < 1 or self.keep < 1:
            raise ConfigError(f"checkpoint every_steps={self.every_steps} and keep={self.keep} must be at least 1")
        if (n := self.keep_every_steps) is not None and (n < 1 or n % self.every_steps):
            raise ConfigError(f"checkpoint.keep_every_steps={n} must be a multiple of every_steps={self.every_steps}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One training run: pretraining and SFT differ by mixture and init."""

    name: str  # Of the run: its folder is runs/NAME
    model: ModelConfig  # Sizes of the network
    compute: ComputeConfig  # How it is computed
    mesh: MeshConfig  # Over which devices
    optim: OptimConfig  # AdamW and its schedule
    data: DataConfig  # Rows
    checkpoint: CheckpointConfig  # Saves and initial weights
    batch_rows: int
    """Rows of seq_len tokens in one optimiser step, over all hosts and micro-batches."""
    seed: int  # Of initial weights and of the order of rows
    log_every_steps: int  # Steps between records of metrics.jsonl
    pipeline: PipelineConfig = PipelineConfig()  # How layers pass the stages
    health: HealthConfig = dataclasses.field(default_factory=HealthConfig)  # Spikes of loss and gradient

    def __post_init__(self) -> None:
        if self.batch_rows % self.optim.accumulate:
            raise ConfigError(
                f"batch_rows={self.batch_rows} does not split into optim.accumulate={self.optim.accumulate}"
                " micro-batches; change one"
            )
        # Outside the pipeline the stages share the rows, so that embedding and head are nobody's alone.
        groups = self.mesh.data * self.mesh.fsdp
        micro_rows, ways = self.batch_rows // self.optim.accumulate, groups * self.mesh.stage
        if micro_rows % ways:
            raise ConfigError(
                f"a micro-batch of {micro_rows} rows does not divide over mesh.data x mesh.stage x mesh.fsdp = {ways}"
                " devices; change batch_rows, optim.accumulate or the mesh"
            )
        self._check_pipeline(micro_rows, groups)
        checks = {
            "num_heads": (self.model.num_heads, "tensor"),
            "num_kv_heads": (self.model.num_kv_heads, "tensor"),
            "mlp_dim": (self.model.mlp_dim, "tensor"),
            "padded_vocab_size": (self.model.padded_vocab_size, "tensor"),
            "model_dim": (self.model.model_dim, "stage x fsdp"),  # of embedding and head
        }
        for field, (size, axes) in checks.items():
            degree = math.prod(getattr(self.mesh, axis) for axis in axes.split(" x "))
            if size % degree:
                raise ConfigError(f"model.{field}={size} does not divide by mesh.{axes}={degree}; change one")
        if self.data.seq_len % self.mesh.tensor:
            raise ConfigError(
                f"data.seq_len={self.data.seq_len} does not divide by mesh.tensor={self.mesh.tensor}, which splits rows"
                " between blocks; change one"
            )
        if self.compute.attention == "splash":
            for field, block in self.compute.splash.blocks().items():
                if self.data.seq_len % block:
                    raise ConfigError(
                        f"data.seq_len={self.data.seq_len} is no multiple of compute.splash.{field}={block}; change one"
                    )

    def _check_pipeline(self, micro_rows: int, groups: int) -> None:
        stage, microbatches, rounds = self.mesh.stage, self.pipeline.microbatches, self.pipeline.rounds
        if stage == 1:
            if (microbatches, rounds) != (1, 1):
                raise ConfigError(
                    f"pipeline.microbatches={microbatches} and pipeline.rounds={rounds} mean nothing with mesh.stage=1;"
                    " leave both at 1, or raise mesh.stage (optim.accumulate splits a batch without stages)"
                )
            return
        if self.compute.remat.startswith("offload"):
            raise ConfigError(
                f"compute.remat={self.compute.remat!r} keeps activations in the host's memory, which the pipeline's"
                f" backward pass does not read, with mesh.stage={stage}; choose a policy that saves on the device"
            )
        if microbatches % stage:
            raise ConfigError(
                f"pipeline.microbatches={microbatches} is not a multiple of mesh.stage={stage}; set it to {stage} or a"
                " multiple: they enter in groups of one for each stage"
            )
        if micro_rows % (groups * microbatches):
            raise ConfigError(
                f"{micro_rows} rows (batch_rows / optim.accumulate) do not split into pipeline.microbatches="
                f"{microbatches} over mesh.data x mesh.fsdp = {groups} groups; make batch_rows a multiple of"
                f" {groups * microbatches * self.optim.accumulate}, or lower pipeline.microbatches"
            )
        if self.model.num_layers % (stage * rounds):
            layers = f"model.num_layers={self.model.num_layers}"
            raise ConfigError(f"{layers} does not divide by mesh.stage={stage} x pipeline.rounds={rounds}; change one")


def dump(config: Any, prefix: str = "") -> list[str]:
    """The resolved config as sorted `a.b = value` lines: logged, kept with the checkpoint, golden-tested."""
    out: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            out += dump(value, f"{prefix}{field.name}.")
        else:
            out.append(f"{prefix}{field.name} = {value!r}")
    return sorted(out)


def load(path: str | Path) -> RunConfig:
    """Runs `config()` of a file under configs/; anything that is not a RunConfig is refused."""
    path = Path(path)
    if not path.is_file():
        near = near_miss(str(path), map(str, path.parent.glob("*.py")))
        raise ConfigError(f"config file {path} does not exist{near or '; give a path such as configs/llama2_tiny.py'}")
    spec = importlib.util.spec_from_file_location(f"tigerjax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config file {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "config"):
            raise ConfigError(f"config file {path} has no function `config() -> RunConfig`")
        built = module.config()
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's Python may raise
        what = error.msg if isinstance(error, SyntaxError) else error
        raise ConfigError(f"config file {_place(error, path)}: {type(error).__name__}: {what}") from error
    if not isinstance(built, RunConfig):
        raise ConfigError(f"config() of {path} returned {type(built).__name__}, not RunConfig")
    return built


def _place(error: Exception, path: Path) -> str:
    """PATH:LINE, the last line of the config file that was being run (or, for a syntax error, read)."""
    if isinstance(error, SyntaxError) and Path(error.filename or "").resolve() == path.resolve():
        return f"{path}:{error.lineno}"
    frames, here = traceback.extract_tb(error.__traceback__), path.resolve()
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == here]
    return f"{path}:{lines[-1]}" if lines else str(path)


def model_from_dict(fields: dict[str, Any]) -> ModelConfig:
    """The model config that `dataclasses.asdict` wrote into a checkpoint's JSON."""
    try:
        return ModelConfig(**fields)
    except TypeError as error:
        raise ConfigError(f"model config {sorted(fields)} does not fit ModelConfig: {error}") from error
