"""A reward model outside of a round: scores of a sampler's files as a stage, and its calibration on another set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigerjax.align.reward import Scorer, calibrate, load_scorer
from tigerjax.align.rounds import score_records
from tigerjax.align.steps import shared_stage
from tigerjax.checkpoint.files import META, amend
from tigerjax.checkpoint.model import load_model
from tigerjax.config import RunConfig
from tigerjax.errors import DataError
from tigerjax.files import paths
from tigerjax.files.jsonl import write_jsonl
from tigerjax.files.progress import Progress
from tigerjax.mesh import mesh_of_several
from tigerjax.records import expand, read, sft_examples
from tigerjax.tokenizer.load import Tokenizer


def score_files(
    config: RunConfig,
    model: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    rows: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes OUT/scored.jsonl, records of the sampler with `score` in every candidate; returns the figures.

    Tokenizer, length and compute are those of `config`; `rows` answers make one batch. Prompts without a valid
    candidate are left out and counted. DataError with file:line for what is not a sampler's record.
    """
    files = expand(inputs)
    tokenizer = Tokenizer(config.data.tokenizer)
    settings = {"rows": rows, "seq_len": config.data.seq_len, "tokenizer_sha256": tokenizer.sha256}
    given = [*files, paths.of(model)]
    with shared_stage(out, name="reward score", computes=True, config=settings, inputs=given) as run:
        if run.done:
            return (run.manifest or {})["figures"]
        scorer = load_scorer(
            model,
            tokenizer,
            compute=config.compute,
            seq_len=config.data.seq_len,
            rows=rows,
            mesh=mesh_of_several(config),
            progress=progress,
        )
        records = [_checked(record, f"{path}:{number}") for path in files for number, record in read(path)]
        scored, dropped = score_records(records, scorer)
        write_jsonl(run.tmp / "scored.jsonl", scored)
        scores = [c["score"] for record in scored for c in record["candidates"] if c["score"] is not None]
        run.counts = {"in": len(records), "out": len(scored), "dropped": dropped}
        run.figures = run.counts | {
            "candidates": len(scores),
            "mean_score": sum(scores) / len(scores) if scores else None,
            "reward_model_sha256": scorer.sha256,
        }
    return run.figures


def calibrate_model(
    config: RunConfig,
    model: str | Path,
    reference: Sequence[str | Path],
    *,
    rows: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Puts mean and deviation of the raw scores of SFT answers into the checkpoint `model`; returns them with the old.

    Weights do not change; scores of both calibrations differ by a linear map, so rankings stay.
    """
    place = paths.of(model)
    if not (place / META).exists():
        raise DataError(f"{place}: no model to calibrate; give the folder RUN/model that `tigerjax reward train` wrote")
    tokenizer, loaded = Tokenizer(config.data.tokenizer), load_model(place)
    scorer = Scorer(
        loaded, tokenizer, compute=config.compute, seq_len=config.data.seq_len, rows=rows, progress=progress
    )
    found = calibrate(scorer, list(sft_examples(reference)))
    amend(place, loaded.extra | {"calibration": found})
    return found | {"before": loaded.extra.get("calibration")}


def _checked(record: dict[str, Any], where: str) -> dict[str, Any]:
    candidates = record.get("candidates")
    whole = isinstance(record.get("prompt_id"), str) and isinstance(record.get("messages"), list)
    if not whole or not isinstance(candidates, list):
        raise DataError(f"{where}: needs prompt_id, messages and candidates, as `tigerjax sample` writes them")
    for c in candidates:
        if not isinstance(c, dict) or not all(isinstance(c.get(name), str) for name in ("cid", "text", "finish")):
            raise DataError(f"{where}: a candidate needs cid, text and finish; this one is {str(c)[:80]}")
    return record
