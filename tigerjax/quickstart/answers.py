"""Held-out questions put to the quick start's models: answers, accuracy, and samples for the report."""

from pathlib import Path
from typing import Any

from tigerjax.files import manifest
from tigerjax.quickstart.state import TEST, Quickstart, read

ANSWER_TOKENS = 32  # the longest right answer of the embedded questions has fewer


def answers(quick: Quickstart, run_dir: Path, *, chat: bool, asked: Path = TEST) -> list[dict[str, Any]]:
    """Greedy answers of a run's model to held-out questions; they are written to OUT/answers/ once."""
    from tigerjax.checkpoint.loaded import load_for
    from tigerjax.evaluate import questions
    from tigerjax.sample.engine import Batching, SamplingConfig
    from tigerjax.sample.folder import sample_prompts

    config = quick.config("base" if run_dir.name == "base" else "sft")
    folder = quick.out / "answers" / asked.stem / "_".join(run_dir.relative_to(quick.out).parts)
    with manifest.stage(folder, name="answers", config={"chat": chat}, inputs=[run_dir / manifest.FILE, asked]) as run:
        if not run.done:
            prompts = questions.prompts(questions.load(asked))
            sampling = SamplingConfig(
                n=1,
                temperature=0.0,
                max_new_tokens=ANSWER_TOKENS,
                context=config.data.seq_len,
                seed=quick.seed,
                chat=chat,
            )
            model, batching = load_for(config, run_dir), Batching(prompts=64, rows=64)
            sample_prompts(model, prompts, run.tmp / "sample", sampling, batching=batching)
    return read(folder / "sample" / "candidates.jsonl")


def accuracy(quick: Quickstart, run_dir: Path, *, chat: bool, asked: Path = TEST) -> dict[str, Any]:
    """Share of held-out questions answered rightly, by language and task."""
    from tigerjax.evaluate import questions

    records = answers(quick, run_dir, chat=chat, asked=asked)
    return questions.accuracy(questions.load(asked), questions.first_texts(records))


def samples(quick: Quickstart, models: dict[str, Path], count: int = 8) -> list[dict[str, Any]]:
    """The same held-out questions answered by every model, evenly spread over the file."""
    from tigerjax.evaluate import questions

    asked = questions.load(TEST)
    texts = {
        name: questions.first_texts(answers(quick, run_dir, chat=name in ("sft", "rejection_sampled")))
        for name, run_dir in models.items()
    }
    chosen = asked[:: max(1, len(asked) // count)][:count]
    return [
        {
            "lang": q.lang,
            "prompt": q.prompt,
            "answers": {name: texts[name][q.id] for name in models},
            "right": {name: questions.judge(q, texts[name][q.id]) for name in models},
        }
        for q in chosen
    ]
