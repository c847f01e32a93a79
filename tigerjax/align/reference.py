"""Log-probabilities of the reference of a preference loss: the model that the run starts from, which stays as it is.

They are computed once and kept under the hash of the model and the rows, or before each step for its rows alone.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tigerjax import mesh as mesh_axes
from tigerjax.align.preference_rows import PreferenceRows
from tigerjax.align.steps import shared_stage
from tigerjax.checkpoint.model import content_sha256
from tigerjax.checkpoint.stored import StoredModel, placed_weights
from tigerjax.config import RunConfig
from tigerjax.files import manifest, paths
from tigerjax.files.jsonl import read_jsonl, write_jsonl
from tigerjax.files.progress import Progress
from tigerjax.mesh import in_mesh
from tigerjax.processes import hosts
from tigerjax.train.feed import Fed
from tigerjax.train.objective import Prepare, answer_log_probs, decoder, in_stage_order
from tigerjax.train.preference_loss import PreferenceBatch
from tigerjax.train.step import joined, micro_batches

FILE = "log_probs.jsonl"


def before_each_step(run: RunConfig, mesh: Mesh, chat: StoredModel) -> Prepare:
    """Adds the reference's log-probabilities to a batch on the devices, for `Objective.prepare`.

    The weights of the reference lie on the mesh as those of the model do, for as long as the function lives."""
    log_probs, parts = answer_log_probs(run, mesh), run.optim.gradient_accumulation_steps

    def whole(weights: Any, batch: PreferenceBatch) -> jax.Array:
        if parts == 1:
            return log_probs(weights, batch)
        # As the step does, so that the forward pass needs no more memory than that of a micro-batch.
        logp_MBC = jax.lax.map(lambda micro: log_probs(weights, micro), micro_batches(batch, parts))
        return joined(logp_MBC)

    of_reference = placed(run, mesh, chat)
    call = in_mesh(mesh, jax.jit(whole, out_shardings=mesh_axes.sharding(mesh, "batch")))

    def prepare(weights: Any, fed: Fed, interrupted: Callable[[], bool]) -> Fed:
        return fed._replace(batch=fed.batch._replace(reference_BC=call(of_reference, fed.batch)))

    return prepare


def cached(
    run: RunConfig, mesh: Mesh, chat: StoredModel, rows: PreferenceRows, *, progress: Progress | None
) -> PreferenceRows:
    """The rows with the reference's log-probabilities, in nats, from data.cache_dir; they are computed where they are
    not there yet. All processes call it together."""
    sha256 = content_sha256(chat.weights, chat.config) if hosts.is_writer() else ""
    content = hashlib.sha256()
    for array in rows.content():
        content.update(repr(array.shape).encode() + np.ascontiguousarray(array).data)
    of = {
        "model_sha256": hosts.share("sha256 of the reference", sha256)[0],
        "rows_sha256": content.hexdigest(),
        "dtype": run.compute.dtype,
        "attention": run.compute.attention,
    }
    name = hashlib.sha256(manifest.canonical(of)).hexdigest()[:12]
    place = paths.of(run.data.cache_dir) / "reference" / name
    with shared_stage(place, name="reference", computes=True, config=of, inputs=[]) as stage:
        if not stage.done:
            values_BC = _all_rows(run, mesh, chat, rows, progress)
            write_jsonl(stage.tmp / FILE, ({"nats": [float(value) for value in row]} for row in values_BC))
            stage.counts = {"in": rows.size, "out": rows.size, "dropped": {}}
    # Read back also where they were just computed, so that a resumed run trains on the same numbers.
    values = [record["nats"] for _, record in read_jsonl(place / FILE)]
    return rows._replace(reference_BC=np.array(values, np.float32))


def _all_rows(
    run: RunConfig, mesh: Mesh, chat: StoredModel, rows: PreferenceRows, progress: Progress | None
) -> np.ndarray:
    """reference_BC of all rows, a micro-batch at a time: that many rows fit into memory with all they need."""
    weights = placed(run, mesh, chat)
    log_probs = in_mesh(mesh, jax.jit(answer_log_probs(run, mesh), out_shardings=mesh_axes.sharding(mesh)))
    size = run.global_batch_size // run.optim.gradient_accumulation_steps
    say = progress("reference", "rows") if progress is not None and hosts.is_writer() else None
    out = []
    for start in range(0, rows.size, size):
        hosts.at(f"computing the reference, from row {start} of {rows.size}")
        picks = np.arange(start, min(start + size, rows.size))
        batch = jax.tree.map(lambda array: mesh_axes.put(array, mesh, "batch"), rows.taken(picks, size))
        out.append(np.asarray(log_probs(weights, batch))[: len(picks)])
        if say is not None:
            say(int(picks[-1]) + 1, rows.size)
    return np.concatenate(out)


def placed(run: RunConfig, mesh: Mesh, chat: StoredModel) -> Any:
    """The weights of `chat` on the mesh as training has them, which it computes with in the same way."""
    return in_stage_order(placed_weights(chat, mesh, "float32"), decoder(run, mesh).order)
