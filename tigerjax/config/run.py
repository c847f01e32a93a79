"""A run: mesh, pipeline, optimiser, data, checkpoints, spikes, and the RunConfig that holds them all."""

import dataclasses
import math

from tigerjax.config.model import ComputeConfig, Dtype, ModelConfig
from tigerjax.errors import ConfigError


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
class HealthConfig:
    """What counts as a spike, and how often a run may lose updates to it."""

    spike: float | None = None
    """Deviations above the median of the last `window` good steps, for loss or gradient norm; None looks for updates
    that are not finite only. A deviation is 1.4826 times the median absolute one."""
    window: int = 128
    """Good steps that are remembered; before half as many were seen nothing is a spike."""
    skip: int = 3
    """Refused updates in a row that a run goes on after."""
    rollbacks: int = 0
    """Times that the run goes back to a checkpoint and leaves data out; then it stops."""

    def __post_init__(self) -> None:
        if self.spike is not None and self.spike <= 0:
            raise ConfigError(f"health.spike={self.spike} must be above 0; 8 refuses only what stands far out")
        if self.window < 4 or self.skip < 0 or self.rollbacks < 0:
            raise ConfigError(
                f"health.window={self.window} must be at least 4, health.skip={self.skip} and"
                f" health.rollbacks={self.rollbacks} at least 0"
            )


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
