"""Whether the chat template of a folder with our markers gives the ids of our own chat encoding."""

from pathlib import Path

from tigerjax.errors import DataError
from tigerjax.tokenizer.hf_files import has_template

DIALOGUE = (
    {"role": "user", "content": "What is 1+1?"},
    {"role": "assistant", "content": "2. 就是二。"},
    {"role": "user", "content": "你好"},
)


def other_template(folder: Path) -> str | None:
    """A line that names a template which gives other ids, or refuses a dialogue; None where there is no such one."""
    from tigerjax.tokenizer.chat import encode_prompt  # the numeric core imports without the libraries of tokenizers
    from tigerjax.tokenizer.json_file import JsonFile
    from tigerjax.tokenizer.load import Tokenizer

    if not folder.is_dir() or not has_template(folder):
        return None
    tokenizer = Tokenizer(folder)
    if tokenizer.ins is None or tokenizer.res is None or tokenizer.pad is None:
        return None
    ours = encode_prompt(tokenizer, DIALOGUE)
    try:
        template = JsonFile(folder).template
        theirs = template.prompt(DIALOGUE) if template is not None else ours
    except DataError as error:
        return f"warning: {error}; here the dialogue has its own encoding"
    if theirs == ours:
        return None
    at = next((n for n, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    return (
        f"warning: {template.where if template else folder}: the chat template gives other ids than the chat encoding"
        f" that is used here: the first of them is number {at + 1}, {theirs[at : at + 1]} for {ours[at : at + 1]}"
    )
