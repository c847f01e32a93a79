"""The reward model: training on preference pairs, evaluation on held-out prompts, calibration, and scoring."""

import functools
import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tigerjax import mesh as mesh_axes
from tigerjax.align import overlong, reward_data, widths
from tigerjax.align.answers import Answer
from tigerjax.align.calibration import MODEL_FOLDER, scale
from tigerjax.align.config import RewardConfig
from tigerjax.align.encoding import encode_all
from tigerjax.align.pair_loader import PairLoader
from tigerjax.align.people.agreement import spearman
from tigerjax.align.reward_data import Comparison, RewardBatch, RewardData
from tigerjax.align.reward_loss import pair_loss
from tigerjax.checkpoint.loaded import Loaded, check_fits, check_sizes
from tigerjax.checkpoint.model import save_model
from tigerjax.checkpoint.stored import open_whole, placed_weights
from tigerjax.config import ObjectiveConfig, RunConfig
from tigerjax.errors import ConfigError, DataError, GateFailed
from tigerjax.files import manifest, paths
from tigerjax.files.progress import Progress
from tigerjax.mesh import host_rows, in_mesh, rows_whole, run_mesh
from tigerjax.model import families
from tigerjax.model.attention import fitting
from tigerjax.model.hf_config import SEQ_LEN
from tigerjax.model.layers import init
from tigerjax.model.selection import selected
from tigerjax.processes import hosts
from tigerjax.records import NOT_GIVEN
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.train.loop import train as train_loop
from tigerjax.train.objective import Objective, Sums, copies_alone
from tigerjax.train.start import start_weights

SMALLEST_BUCKET = 32


class TrainedReward(NamedTuple):
    """A reward model that was trained, evaluated and calibrated."""

    path: Path
    """Its checkpoint, of kind "reward"."""
    figures: dict[str, Any]
    """What `evaluate` measured, the counts of pairs and prompts, and the calibration."""


def last_scores(model: nn.Module, weights: Any, tokens_BT: jax.Array, last_B: jax.Array) -> jax.Array:
    """The model's score_B at the token `last_B`, after which everything is padding.

    A row whose last is -1 holds no answer, and its score means nothing.
    """
    model = model.clone(compute=fitting(model.compute, tokens_BT.shape[1]))
    places_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1], dtype=jnp.int32), tokens_BT.shape)
    segment_ids_BT = (places_BT <= last_B[:, None]).astype(jnp.int32)
    rows = (mesh_axes.balanced(a) for a in (tokens_BT, places_BT, segment_ids_BT))
    scores_BT = nn.with_logical_constraint(jnp.asarray(model.apply({"params": weights}, *rows)), ("batch", None))
    scores_BT = mesh_axes.in_row_order(scores_BT)
    return jnp.take_along_axis(scores_BT, jnp.maximum(last_B, 0)[:, None], axis=1)[:, 0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled(model: nn.Module, mesh: Mesh | None, weights: Any, tokens_BT: jax.Array, last_B: jax.Array) -> jax.Array:
    """`last_scores` under jit; every process gets all scores.

    The model is an argument and not a closure, so that all scorers share one compilation per model, mesh and shape.
    """
    scores_B = last_scores(model, weights, tokens_BT, last_B)
    return scores_B if mesh is None else jax.lax.with_sharding_constraint(scores_B, mesh_axes.sharding(mesh))


def reward_objective(config: RunConfig, *, centering: float) -> Objective:
    """The objective of reward training for tigerjax.train.loop: the pair loss on batches of `RewardBatch`.

    Raises ConfigError for a config with pipeline stages or with an objective of its own.
    """
    if config.mesh.stage > 1:
        raise ConfigError(f"mesh.stage={config.mesh.stage}: reward training runs no pipeline; set mesh.stage=1")
    if config.objective != ObjectiveConfig():
        kind = type(config.objective).__name__
        raise ConfigError(f"objective={kind}(…): reward training has its own loss; leave the field out")
    family = families.of(config.model)
    model = family.reward_model(config.model, config.compute, lora=config.lora)

    def loss(weights: Any, batch: RewardBatch) -> tuple[jax.Array, jax.Array, Sums]:
        B, C, T = batch.tokens_BCT.shape
        tokens_BT, last_B = jnp.reshape(batch.tokens_BCT, (B * C, T)), jnp.reshape(batch.last_BC, (B * C,))
        scores_B = last_scores(model, weights, tokens_BT, last_B)
        return pair_loss(scores_B.reshape(B, C), batch, centering=centering)

    def tokens(batch: RewardBatch) -> int:
        return int((batch.last_BC + 1).sum())

    part = selected(config.weights, config.lora, config.model, reward=True)
    kind, copies = family.REWARD_KIND, copies_alone(config.mesh)
    return Objective(
        init=lambda key: init(model, key), loss=loss, kind=kind, tokens=tokens, trained=part, copies=copies
    )


def row_multiple(config: RunConfig) -> int:
    """A row of training has a multiple of so many tokens: what its devices share, each in whole blocks of queries."""
    blocks = config.compute.splash.blocks().items() if config.compute.attention == "splash" else ()
    queries = [block for name, block in blocks if name.startswith("block_q")]
    return config.mesh.sequence * math.lcm(*(queries or [reward_data.LENGTH_MULTIPLE]))


class Scorer:
    """Scores answers with a reward model. A score depends on its own answer only, not on the others in its batch.

    Calling it gives calibrated scores: (raw - mean) / std with the mean and deviation of the reference set, less the
    checkpoint's penalty for answers that the model did not end itself. `raw` gives the model's own scores.

    A batch has `rows` answers, padded to a power of two of at least SMALLEST_BUCKET tokens; each such length is
    compiled once. With `mesh`, a batch is split over its batch axes, and the weights lie where `loaded.load` put them.
    """

    def __init__(
        self,
        model: Loaded,
        *,
        seq_len: int,
        rows: int,
        progress: Progress | None = None,
    ):
        """`model` is a reward model, as `loaded.load(…, reward=True)` gives it."""
        tokenizer, mesh = model.tokenizer, model.mesh
        check_rows(rows, mesh)
        self.extra, self.sha256 = model.extra, model.sha256
        self._model = families.of(model.config).reward_model(model.config, model.compute)
        self._weights = jax.tree.map(jnp.asarray, dict(model.weights))
        self._tokenizer, self._seq_len, self._rows, self._mesh = tokenizer, seq_len, rows, mesh
        self._progress = progress if hosts.is_writer() else None
        self._run = _compiled if mesh is None else in_mesh(mesh, _compiled)

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """Calibrated scores, in standard deviations of the reference set; NaN where the model gives none, and for an
        `Existing` answer that does not fit."""
        mean, std, penalty = scale(self.extra)
        ids, finishes = self._encode(answers)
        scored = zip(self.raw_ids(ids), finishes, strict=True)
        return [float((raw - mean) / std - (0.0 if finish == "stop" else penalty)) for raw, finish in scored]

    def raw(self, answers: Sequence[Answer]) -> np.ndarray:
        """The model's own scores, float64 [len(answers)]."""
        return self.raw_ids(self._encode(answers)[0])

    def _encode(self, answers: Sequence[Answer]) -> tuple[list[list[int] | None], list[str]]:
        return encode_all(self._tokenizer, answers, seq_len=self._seq_len)

    def raw_ids(self, ids: Sequence[Sequence[int] | None]) -> np.ndarray:
        """Scores at the last token of each sequence, float64 [len(ids)]; NaN for None. It does not check that this
        token is eos.

        Raises DataError for a sequence that is empty or longer than `seq_len`.
        """
        buckets: dict[int, list[int]] = defaultdict(list)
        for index, one in enumerate(ids):
            if one is None:
                continue
            if not 0 < len(one) <= self._seq_len:
                raise DataError(f"sequence {index} has {len(one)} tokens, needs 1 to {self._seq_len}")
            buckets[max(SMALLEST_BUCKET, 1 << (len(one) - 1).bit_length())].append(index)
        out, done, mesh = np.full(len(ids), np.nan), 0, self._mesh
        say = self._progress and self._progress("scored", "answers")
        for length in sorted(buckets):
            for start in range(0, len(buckets[length]), self._rows):
                hosts.at(f"scoring answers of up to {length} tokens, from {start} of {len(buckets[length])}")
                indices = buckets[length][start : start + self._rows]
                tokens_BT, last_B = np.zeros((self._rows, length), np.int32), np.zeros(self._rows, np.int32)
                for row, index in enumerate(indices):
                    one = ids[index] or ()
                    tokens_BT[row, : len(one)] = one
                    last_B[row] = len(one) - 1
                batch = [a if mesh is None else mesh_axes.put(a, mesh, "batch") for a in (tokens_BT, last_B)]
                scores_B = np.asarray(self._run(self._model, mesh, self._weights, *batch))
                out[indices] = scores_B[: len(indices)]
                done += len(indices)
                if say is not None:
                    say(done, len(ids))
        return out


def check_rows(rows: int, mesh: Mesh | None) -> None:
    """ConfigError when a scoring batch cannot be split evenly over the mesh."""
    if rows % (ways := mesh_axes.row_ways(mesh)):
        raise ConfigError(f"reward.score_batch_size={rows} must be a multiple of the {ways} devices that share rows")


def train(
    config: RunConfig,
    reward: RewardConfig,
    *,
    data: RewardData,
    tokenizer: Tokenizer,
    init: str | Path,
    run_dir: str | Path,
    force: bool = False,
    progress: Progress | None = None,
) -> TrainedReward:
    """Trains a reward model from the chat checkpoint `init` on preferences, and writes it to RUN_DIR/model.

    `config.global_batch_size` counts prompts and `config.data.seq_len` bounds a chat; what is longer is left out and
    counted, at most the share `config.data.max_dropped`. `progress` counts the answers that are scored after training.
    In a run of several processes all call this, with one `run_dir` that all of them see. Raises GateFailed when the
    pair accuracy on held-out prompts is below `reward.min_accuracy` or a score is not finite, unless `force` is set.
    """
    run_dir, mesh, family = paths.of(run_dir), run_mesh(config), families.of(config.model)
    several = rows_whole(mesh)
    check_rows(reward.score_batch_size, several)  # so that a wrong value is refused before the training
    seq_len, max_dropped = config.data.seq_len, config.data.max_dropped
    read = reward_data.read(data.preferences)
    comparisons, counts = overlong.fit(*read, tokenizer, seq_len=seq_len, max_dropped=max_dropped)
    reference = overlong.fitting_reference(data.reference, tokenizer, seq_len=seq_len, max_dropped=max_dropped)
    train_set, eval_set = reward_data.split(comparisons, eval_fraction=reward.eval_fraction, seed=config.seed)
    chat = open_whole(init)
    check_fits(chat, tokenizer, where=init)
    check_sizes(chat, config.model, where=init)
    digest = hashlib.sha256(manifest.canonical([comparisons, [e["messages"] for e in reference]])).hexdigest()
    hosts.same("preferences or reference set", digest)
    prompts = widths.to_batches(train_set, tokenizer, seq_len=seq_len, multiple=row_multiple(config))
    loader = PairLoader(
        prompts,
        batch_rows=config.global_batch_size,
        seed=config.seed,
        tokenizer_sha256=tokenizer.sha256,
        mine=host_rows(mesh, config.global_batch_size),
    )
    objective, key = reward_objective(config, centering=reward.centering), jax.random.key(config.seed)
    given = start_weights(chat, objective, mesh)
    state = train_loop(
        config,
        loader,
        run_dir=run_dir,
        mesh=mesh,
        objective=objective,
        init=given._replace(weights=family.reward_from_language(given.weights, key)),
    )
    state = state._replace(opt_state=None)  # frees its memory for scoring
    weights = state.weights if objective.trained is None else placed_weights(open_whole(run_dir), several, "float32")
    if config.mesh.sequence > 1:  # the same parts on the same devices, under the names that the scorer's mesh has
        weights = jax.device_put(weights, families.weight_shardings(config.model, family.REWARD_KIND, several))
    fresh = Loaded(
        config=config.model,
        weights=weights,
        tokenizer=tokenizer,
        compute=config.compute,
        mesh=several if mesh.size > 1 else None,
        sha256="",  # not saved yet
        step=int(state.step),
    )
    scorer = Scorer(fresh, seq_len=config.data.seq_len, rows=reward.score_batch_size, progress=progress)
    figures: dict[str, Any] = {"pairs": counts, "train_prompts": len(train_set), "eval_prompts": len(eval_set)}
    figures["held_out_pairs"] = sum(len(c.pairs) for c in eval_set)
    figures |= evaluate(scorer, eval_set, tokenizer, max_length_rho=reward.max_length_rho)
    failed = None if force else unusable(figures, min_accuracy=reward.min_accuracy)
    if failed:
        raise GateFailed(f"reward model of {run_dir} is not usable for ranking: {failed}")
    calibration, path = calibrate(scorer, reference), run_dir / MODEL_FOLDER
    extra = {"calibration": calibration, "truncation_penalty": reward.truncation_penalty, "figures": figures}
    extra |= given.extra | {SEQ_LEN: max(seq_len, given.extra.get(SEQ_LEN, 0))}
    sha, step = tokenizer.sha256, fresh.step
    save_model(path, fresh.weights, config.model, kind=family.REWARD_KIND, tokenizer_sha256=sha, step=step, extra=extra)
    return TrainedReward(path, figures | {"calibration": calibration})


def evaluate(
    scorer: Scorer, comparisons: Sequence[Comparison], tokenizer: Tokenizer, *, max_length_rho: float
) -> dict[str, Any]:
    """{accuracy, by_task, by_lang, length_rho, not_finite} of a scorer on comparisons.

    Accuracy is the share of pairs whose winner scores higher, a tie counting half; every prompt has the same weight.
    `length_rho` is the Spearman correlation of score and answer length; beyond `max_length_rho` it gives a warning.
    """
    answers = [Answer(c.messages, text, finish) for c in comparisons for text, finish in c.answers]
    scores, start = scorer.raw(answers), 0
    right: list[float] = []
    for c in comparisons:
        own = scores[start : start + len(c.answers)]
        start += len(c.answers)
        right.append(
            sum(
                p.weight * (float(own[p.winner] > own[p.loser]) + 0.5 * float(own[p.winner] == own[p.loser]))
                for p in c.pairs
            )
        )
    lengths = [len(tokenizer.encode(text)) for _, text, *_ in answers]
    finite = np.isfinite(scores)
    rho = spearman(scores[finite].tolist(), np.asarray(lengths)[finite].tolist())
    if abs(rho) > max_length_rho:
        hosts.say(
            f"warning: reward and answer length correlate by {rho:+.2f} (limit {max_length_rho}): the model may judge"
            " length; balance the preferences"
        )
    return {
        "accuracy": float(np.mean(right)),
        "by_task": _means([c.task for c in comparisons], right),
        "by_lang": _means([c.lang for c in comparisons], right),
        "length_rho": rho,
        "not_finite": int((~finite).sum()),
    }


def unusable(figures: Mapping[str, Any], *, min_accuracy: float) -> str | None:
    """Why a reward model with these figures may not be used for ranking; None when it may.

    They are those of `evaluate`. Where `train` has added its counts, the message has them too.
    """
    forced = "or keep it as it is with --force"
    if figures["not_finite"]:
        return f"{figures['not_finite']} held-out scores are NaN or infinite; lower the learning rate, {forced}"
    if not figures["accuracy"] >= min_accuracy:
        counted = ""
        if "held_out_pairs" in figures:
            trained = figures["pairs"]["out"] - figures["held_out_pairs"]
            counted = f" on {figures['held_out_pairs']} pairs of {figures['eval_prompts']} prompts"
            counted += f", trained on {trained} pairs of {figures['train_prompts']} prompts,"
        below = f"held-out pair accuracy {figures['accuracy']:.3f}{counted} is below {min_accuracy}"
        return f"{below}; give more or clearer pairs, lower --reward.min-accuracy, {forced}"
    return None


def calibrate(scorer: Scorer, reference: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """{mean, std, n} of the raw scores of the answers of an SFT set; GateFailed when the scores do not differ."""
    scores = scorer.raw([Answer(e["messages"][:-1], e["messages"][-1]["content"], "stop") for e in reference])
    if len(scores) < 2 or not np.isfinite(scores).all() or not scores.std() > 0:
        raise GateFailed(
            f"cannot calibrate on {len(scores)} reference answers ({int((~np.isfinite(scores)).sum())} scores not"
            " finite): give answers with at least two different finite scores"
        )
    return {"mean": float(scores.mean()), "std": float(scores.std()), "n": len(scores)}


def _means(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """The mean of the values of each name; an empty name is NOT_GIVEN."""
    by: dict[str, list[float]] = defaultdict(list)
    for name, value in zip(names, values, strict=True):
        by[name.strip() or NOT_GIVEN].append(value)
    return {name: float(np.mean(by[name])) for name in sorted(by)}
