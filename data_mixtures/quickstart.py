"""The quick start's four mixtures, over files that the quick start writes below one work folder.

    quickstart_base                English documents in the base tokenizer: the stand-in for Llama-2's pretraining
    quickstart_holistic            zh:en 1:1 and 5% early instructions as plain text, in the extended tokenizer
    quickstart_sft                 chat examples, loss on the answers
    quickstart_rejection_sampled   chat examples after rejection sampling, with the winners mixed in

Importing this module registers them for runs/quickstart, and `register` for another folder. Files need to exist only
when rows are made.
"""

from pathlib import Path

from tigerjax.data.mixture import Source, holistic, pretraining, sft

WORK = Path("runs/quickstart")
INSTRUCT_FRACTION = 0.05
FACTS_WEIGHT = 4.0  # our choice: a model of a million parameters must meet each fact some hundred times


def register(work: Path, *, instruct_fraction: float = INSTRUCT_FRACTION) -> None:
    """Registers the mixtures for files below `work`, replacing those of another folder."""
    work = Path(work)
    extended = work / "tokenizer"
    zh, en = (
        {
            name: Source(work / "sources" / f"{lang}_{name}.jsonl", weight=weight)
            for name, weight in (("facts", FACTS_WEIGHT), ("books", 1.0))
        }
        for lang in ("zh", "en")
    )
    examples = Source(work / "instructions" / "sft.jsonl")
    pretraining("quickstart_base", tokenizer=work / "base_tokenizer", sources=en)
    holistic(
        "quickstart_holistic",
        tokenizer=extended,
        zh=zh,
        en=en,
        instruct=Source(work / "early" / "sft.jsonl"),
        instruct_fraction=instruct_fraction,
    )
    sft("quickstart_sft", tokenizer=extended, examples=examples)
    sft("quickstart_rejection_sampled", tokenizer=extended, examples=Source(work / "mixed" / "sft.jsonl"))


register(WORK)
