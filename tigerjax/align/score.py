"""Uses of a reward outside of a round: scoring the sampler's files, and calibration on another set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigerjax.align.answers import score_records
from tigerjax.align.calibration import check as check_calibrated
from tigerjax.align.calibration import refuse_foreign
from tigerjax.align.overlong import fitting_reference
from tigerjax.align.reward import Scorer, calibrate
from tigerjax.align.rewards.given import read as read_reward
from tigerjax.align.rewards.reward import Reward, uses
from tigerjax.align.steps import shared_stage
from tigerjax.checkpoint.files import META, amend
from tigerjax.checkpoint.loaded import load, load_for
from tigerjax.config import RunConfig
from tigerjax.errors import DataError
from tigerjax.files import paths
from tigerjax.files.jsonl import write_jsonl
from tigerjax.files.progress import Progress
from tigerjax.records import expand, read, sft_examples
from tigerjax.tokenizer.load import Tokenizer


def score_files(
    config: RunConfig,
    reward: str,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    rows: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes OUT/scored.jsonl, sampler records with a `score` in every candidate, and returns the figures.

    `reward` is what `rewards.given` reads. Tokenizer, sequence length and compute are those of `config`; `rows` answers
    make one batch. Prompts without a valid candidate are left out and counted. DataError with file:line for a line that
    is not a sampler record.
    """
    files = expand(inputs)
    tokenizer = Tokenizer(config.data.tokenizer)
    settings = {"rows": rows, "seq_len": config.data.seq_len, "tokenizer_sha256": tokenizer.encoding_sha256}
    of = read_reward(reward)
    used = uses(of)
    settings |= {"reward": used.settings} if used.settings else {}
    given = [*files, *used.inputs]
    with shared_stage(out, name="reward score", computes=True, config=settings, inputs=given) as run:
        if run.done:
            return (run.manifest or {})["figures"]
        models = list[Scorer]()

        def scorer(path: str) -> Scorer:
            refuse_foreign(path)
            loaded = load_for(config, path, reward=True)
            check_calibrated(loaded.extra, path)
            models.append(Scorer(loaded, seq_len=config.data.seq_len, rows=rows, progress=progress))
            return models[-1]

        score = Reward(of, scorer, progress=progress)
        records = [_checked(record, f"{path}:{number}") for path in files for number, record in read(path)]
        scored, dropped = score_records(records, score)
        write_jsonl(run.tmp / "scored.jsonl", scored)
        scores = [c["score"] for record in scored for c in record["candidates"] if c["score"] is not None]
        run.counts = {"in": len(records), "out": len(scored), "dropped": dropped}
        run.figures = run.counts | {
            "candidates": len(scores),
            "mean_score": sum(scores) / len(scores) if scores else None,
            **({"below_floor": sum("below" in c for r in scored for c in r["candidates"])} if of.floors else {}),
            **({"reward_model_sha256": ", ".join(model.sha256 for model in models)} if models else {}),
        }
    return run.figures


def calibrate_model(
    config: RunConfig,
    model: str | Path,
    reference: Sequence[str | Path],
    *,
    rows: int,
    truncation_penalty: float,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Calibrates the reward model `model` on the answers of other SFT files; returns {mean, std, n, before}.

    Only the calibration in the checkpoint changes. The weights stay, and so does the order of any answers. A model that
    has no truncation penalty, as one from Hugging Face, gets this one. Raises DataError where there is no such model.
    """
    place = paths.of(model)
    if not (place / META).exists():
        raise DataError(f"{place}: no model to calibrate; give the folder RUN/model that `tigerjax reward train` wrote")
    loaded = load(place, Tokenizer(config.data.tokenizer), compute=config.compute, reward=True)
    scorer = Scorer(loaded, seq_len=config.data.seq_len, rows=rows, progress=progress)
    seq_len, max_dropped = config.data.seq_len, config.data.max_dropped
    given = list(sft_examples(reference))
    fitting = fitting_reference(given, loaded.tokenizer, seq_len=seq_len, max_dropped=max_dropped)
    calibration = calibrate(scorer, fitting)
    own = loaded.extra.get("truncation_penalty")
    penalty = own if isinstance(own, int | float) and own >= 0 else truncation_penalty
    amend(place, loaded.extra | {"calibration": calibration, "truncation_penalty": penalty})
    return calibration | {"before": loaded.extra.get("calibration")}


def _checked(record: dict[str, Any], where: str) -> dict[str, Any]:
    """The record; DataError when it is not one of the sampler."""
    candidates = record.get("candidates")
    whole = isinstance(record.get("prompt_id"), str) and isinstance(record.get("messages"), list)
    if not whole or not isinstance(candidates, list):
        raise DataError(f"{where}: needs prompt_id, messages and candidates, as `tigerjax sample` writes them")
    for c in candidates:
        if not isinstance(c, dict) or not all(isinstance(c.get(name), str) for name in ("cid", "text", "finish")):
            raise DataError(f"{where}: a candidate needs cid, text and finish; this one is {str(c)[:80]}")
    return record
