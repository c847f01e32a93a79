"""The settings of a training run: mesh, pipeline, data, checkpoints and health."""

import dataclasses
import math
from pathlib import PurePath
from typing import Annotated

from tigerjax.config.excluded import refuse_excluded
from tigerjax.config.model import LATER, ComputeConfig, ModelConfig
from tigerjax.config.objective import ObjectiveConfig
from tigerjax.config.optim import OptimConfig
from tigerjax.config.phases import refuse_late, starts
from tigerjax.config.ranges import Count, CountOrZero, PositiveFactor, Range, Seed, Share, check
from tigerjax.config.validation import EvalConfig
from tigerjax.config.weights import LoraConfig, WeightsConfig
from tigerjax.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MeshConfig:
    """How the work is split over devices. The product of all is the number of devices."""

    data: Count = 1  # Copies of the model, one per slice, which exchange only gradients
    stage: Count = 1  # Pipeline stages, which share the layers
    fsdp: Count = 1  # Shards of the rows of a batch, and of the weights along D
    sequence: Count = 1  # Shares of each row along T, for long rows; the weights along D are split by it too
    tensor: Count = 1  # Shards of the heads, of the mlp and of the vocabulary
    data_once: bool = dataclasses.field(default=False, metadata={LATER: True})
    """Each copy computes its micro-batches alone, and gradients are added once a step, behind the last backward pass.
    Otherwise the compiler adds them where it pleases. Not with mesh.stage > 1"""
    least_data: Count | None = dataclasses.field(default=None, metadata={LATER: True})
    """Training starts with fewer copies than `data`, as when a slice is lost, if at least so many are there: each
    computes more micro-batches, and the global batch stays. None: it needs all"""

    def __post_init__(self) -> None:
        check(self, "mesh.")
        if self.data_once and self.stage > 1:
            raise ConfigError(
                f"mesh.data_once=True does not go with the pipeline of mesh.stage={self.stage}; set mesh.stage=1, or"
                " mesh.data_once=False"
            )
        if self.data_once and self.tensor > 1 and self.fsdp * self.sequence > 1:
            raise ConfigError(
                f"mesh.data_once=True does not go with mesh.tensor={self.tensor} beside mesh.fsdp={self.fsdp} and"
                f" mesh.sequence={self.sequence}: XLA cannot compile it; set mesh.tensor=1, or mesh.data_once=False"
            )
        if self.least_data is not None and self.least_data > self.data:
            raise ConfigError(
                f"mesh.least_data={self.least_data} is more than mesh.data={self.data}, the copies that there are;"
                " lower it"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PipelineConfig:
    """How batches pass through the pipeline stages. With mesh.stage=1 both fields must be 1.

    The schedule is described in tigerjax/model/pipeline.py.
    """

    microbatches: Count = 1
    """Parts of a batch that follow each other through the stages (M). With optim.gradient_accumulation_steps, parts of
    one of its micro-batches."""
    rounds: Count = 1
    """How many times a microbatch passes through all stages (V), each time through other layers. 1 is GPipe. More
    rounds leave stages idle for less time: (stage - 1) / (rounds * microbatches + stage - 1) of the step."""

    def __post_init__(self) -> None:
        check(self, "pipeline.")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What the run is trained on."""

    mixture: str
    """Name of a mixture of sources, in the SeqIO registry."""
    modules: tuple[str, ...]
    """Python modules that register the mixture when they are imported, such as data_mixtures.quickstart."""
    tokenizer: str
    """Folder of the tokenizer. It must be the one with which cached rows and checkpoint were made."""
    cache_dir: str
    """Folder for the rows of each source, as `tigerjax data cache` makes them."""
    seq_len: Annotated[int, Range(2, 2**24)]
    """Tokens in a row (T)."""
    max_dropped: Share = 0.5
    """The share of a source's records, or of preferences, that may be left out: what is longer than `seq_len`, and what
    has no answer in the loss. More of them stop the run."""
    phases: tuple[str, ...] = dataclasses.field(default=(), metadata={LATER: True})
    """Other mixtures from later steps on: STEP=MIXTURE, or STEP-STEP=MIXTURE, where the shares move evenly between the
    two steps. Steps count the batches that were read. The mixtures have the same tokenizer."""

    def __post_init__(self) -> None:
        check(self, "data.")
        starts(self.phases)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """When checkpoints are saved, which of them stay, and where the first weights come from."""

    every_steps: Count  # Steps between two checkpoints; the last step is saved too
    keep: Count  # How many of the newest checkpoints stay
    keep_every_steps: Count | None = None  # Checkpoints of its multiples stay for good; None: of none
    init_from: str | None = None
    """Folder of a checkpoint or a run, from whose weights this run starts at step 0. None starts from random ones."""
    branch_from: str | None = dataclasses.field(default=None, metadata={LATER: True})
    """Folder of a checkpoint of another run, or of that run, which this run continues in a folder of its own: with its
    step, its weights, the state of its optimiser and its place in the data. None continues no other run."""
    keep_best: bool = dataclasses.field(default=False, metadata={LATER: True})
    """Whether the checkpoint with the best `eval.metric` stays, however old; of equal ones the newest."""

    local_every_steps: Count | None = dataclasses.field(default=None, metadata={LATER: True})
    """Steps between two saves on the hosts' own disks, from which a restart loses fewer steps than from a checkpoint.
    None: no such saves."""
    local_dir: str | None = dataclasses.field(default=None, metadata={LATER: True})
    """Folder for them on each host's disk, or in its memory: /dev/shm/tigerjax. It holds up to four times what the host
    has of weights and optimiser. None: no such saves."""

    def __post_init__(self) -> None:
        check(self, "checkpoint.")
        self._check_local()
        if (n := self.keep_every_steps) is not None and n % self.every_steps:
            raise ConfigError(f"checkpoint.keep_every_steps={n} must be a multiple of every_steps={self.every_steps}")
        if self.branch_from is not None and self.init_from is not None:
            raise ConfigError(
                "checkpoint.branch_from continues a run, and checkpoint.init_from starts at step 0 from weights; give"
                " one of them"
            )

    def _check_local(self) -> None:
        every, folder = self.local_every_steps, self.local_dir
        if (every is None) != (folder is None):
            raise ConfigError(
                f"checkpoint.local_every_steps={every} and checkpoint.local_dir={folder!r} need each other; give both,"
                " or none of them"
            )
        if every is not None and every >= self.every_steps:
            raise ConfigError(
                f"checkpoint.local_every_steps={every} is not below checkpoint.every_steps={self.every_steps}, so a"
                " local save would never be the newest; lower it, or leave it out"
            )
        if folder is not None and folder.startswith("gs:"):
            raise ConfigError(
                f"checkpoint.local_dir={folder!r} lies in a bucket; give a folder of each host's own disk or memory,"
                " such as /dev/shm/tigerjax"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HealthConfig:
    """Which updates are refused, because of a spike in the loss or in the gradient norm, and what happens then.

    Updates that are not finite are always refused.
    """

    spike: PositiveFactor | None = None
    """An update is refused when its loss or gradient norm lies so many deviations above the median of the last `window`
    good steps. A deviation is 1.4826 times the median absolute deviation. None refuses no finite update."""
    window: Annotated[int, Range(4, 2**20)] = 128
    """Good steps whose median is taken. No spike is seen before half as many good steps."""
    skip: CountOrZero = 3
    """How many updates in a row may be refused. After one more, the run goes back to a checkpoint or stops."""
    rollbacks: CountOrZero = 0
    """How many times the run may go back to a checkpoint, where it leaves out the data of the refused updates."""

    def __post_init__(self) -> None:
        check(self, "health.")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One training run. Pretraining and SFT differ in the mixture and in the weights that they start from."""

    name: str  # The run is written to runs/NAME
    model: ModelConfig  # Sizes of the model
    compute: ComputeConfig  # How it is computed
    mesh: MeshConfig  # How it is split over devices
    optim: OptimConfig  # Optimiser and learning rate
    data: DataConfig  # What it is trained on
    checkpoint: CheckpointConfig  # Checkpoints and first weights
    global_batch_size: Count
    """Sequences of seq_len tokens in one optimiser step, over all hosts and micro-batches."""
    seed: Seed  # Decides random weights and the order of rows
    log_every_steps: Count  # Steps between two records in metrics.jsonl
    pipeline: PipelineConfig = PipelineConfig()  # How batches pass through the stages
    health: HealthConfig = dataclasses.field(default_factory=HealthConfig)  # Which updates are refused
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)  # What is minimised
    eval: EvalConfig = dataclasses.field(default=EvalConfig(), metadata={LATER: True})
    """What is measured on held-out data while the run trains"""
    weights: WeightsConfig = dataclasses.field(default=WeightsConfig(), metadata={LATER: True})
    """Which weights are trained, and how the others are held"""
    lora: LoraConfig = dataclasses.field(default=LoraConfig(), metadata={LATER: True})
    """Low-rank adapters that are trained in place of the weights"""

    def __post_init__(self) -> None:
        check(self, "")
        parts = PurePath(self.name).parts  # none for "" and ".", which would be runs/ itself
        if not parts or ".." in parts or parts[0] == "/" or not self.name.isprintable():
            raise ConfigError(f"name={self.name!r} must be the name of a folder below runs/, such as my_run")
        size, steps = self.global_batch_size, self.optim.gradient_accumulation_steps
        if size % steps:
            raise ConfigError(
                f"global_batch_size={size} does not split into optim.gradient_accumulation_steps={steps} micro-batches;"
                " change one"
            )
        # Embedding and head are computed outside the pipeline, and there the stages split the rows too.
        groups = self.mesh.data * self.mesh.fsdp
        micro_rows, ways = size // steps, groups * self.mesh.stage
        if micro_rows % ways:
            raise ConfigError(
                f"a micro-batch of {micro_rows} rows does not divide over mesh.data x mesh.stage x mesh.fsdp = {ways}"
                " devices; change global_batch_size, optim.gradient_accumulation_steps or the mesh"
            )
        self._check_pipeline(micro_rows, groups)
        checks = {
            "num_heads": (self.model.num_heads, "tensor"),
            "num_kv_heads": (self.model.num_kv_heads, "tensor"),
            "mlp_dim": (self.model.mlp_dim, "tensor"),
            "padded_vocab_size": (self.model.padded_vocab_size, "tensor"),
            "model_dim": (self.model.model_dim, "stage x fsdp x sequence"),  # of embedding and head
        }
        for field, (size, axes) in checks.items():
            degree = math.prod(getattr(self.mesh, axis) for axis in axes.split(" x "))
            if size % degree:
                raise ConfigError(f"model.{field}={size} does not divide by mesh.{axes}={degree}; change one")
        if (rank := self.lora.rank) > (size := self.model.model_dim):
            raise ConfigError(
                f"lora.rank={rank} is more than model.model_dim={size}, so the adapters would be larger than their"
                " matrices; lower lora.rank, or train all weights"
            )
        refuse_excluded(self.compute, self.model, self.mesh, self.weights)
        self._check_length()
        self._check_start()
        self._check_phases()
        if self.checkpoint.keep_best and self.eval.every_steps is None:
            raise ConfigError(
                "checkpoint.keep_best needs validations to choose by, and eval.every_steps is None: only the last step"
                " is validated; set eval.every_steps"
            )

    def _check_start(self) -> None:
        if (first := self.optim.schedule.first_step) and self.checkpoint.branch_from is None:
            raise ConfigError(
                f"optim.schedule.first_step={first}, but a run without checkpoint.branch_from begins at step 0; set"
                " that, or leave first_step at 0"
            )

    def _check_phases(self) -> None:
        if self.data.phases and type(self.objective) is not ObjectiveConfig:
            raise ConfigError(
                f"data.phases={self.data.phases} are mixtures; objective {type(self.objective).__name__} reads files"
                " of its own; leave data.phases out"
            )
        refuse_late(self.data.phases, self.optim.total_steps, "optim.total_steps")

    def _check_length(self) -> None:
        length, shares = self.data.seq_len, self.mesh.sequence
        if length % (ways := shares * self.mesh.tensor):
            axes = f"mesh.tensor={ways}" if shares == 1 else f"mesh.sequence x mesh.tensor = {ways}"
            which = "splits" if shares == 1 else "split"
            raise ConfigError(
                f"data.seq_len={length} does not divide by {axes}, which {which} rows between blocks; change one"
            )
        if shares > 1 and length % (2 * shares):
            raise ConfigError(
                f"data.seq_len={length} does not divide into 2 x mesh.sequence = {2 * shares} chunks; change one"
            )
        if shares > 1 and self.compute.attention == "cudnn":
            raise ConfigError(
                f"compute.attention='cudnn' reads whole rows only, and mesh.sequence={shares} cuts them; choose splash"
                " or reference, or set mesh.sequence=1"
            )
        if self.compute.attention == "splash":
            for field, block in self.compute.splash.blocks().items():
                if length % block:
                    raise ConfigError(
                        f"data.seq_len={length} is no multiple of compute.splash.{field}={block}; change one"
                    )
                if field.startswith("block_q") and length // shares % block:
                    raise ConfigError(
                        f"data.seq_len={length} / mesh.sequence={shares} is no multiple of"
                        f" compute.splash.{field}={block}; change one"
                    )

    def _check_pipeline(self, micro_rows: int, groups: int) -> None:
        stage, microbatches, rounds = self.mesh.stage, self.pipeline.microbatches, self.pipeline.rounds
        if stage == 1:
            if (microbatches, rounds) != (1, 1):
                raise ConfigError(
                    f"pipeline.microbatches={microbatches} and pipeline.rounds={rounds} mean nothing with mesh.stage=1;"
                    " leave both at 1, or raise mesh.stage (optim.gradient_accumulation_steps splits a"
                    " batch without stages)"
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
                f"{micro_rows} rows (global_batch_size / optim.gradient_accumulation_steps) do not split into"
                f" pipeline.microbatches={microbatches} over mesh.data x mesh.fsdp = {groups} groups; make"
                f" global_batch_size a multiple of {groups * microbatches * self.optim.gradient_accumulation_steps}, or"
                " lower pipeline.microbatches"
            )
        if self.model.num_layers % (stage * rounds):
            layers = f"model.num_layers={self.model.num_layers}"
            raise ConfigError(f"{layers} does not divide by mesh.stage={stage} x pipeline.rounds={rounds}; change one")
