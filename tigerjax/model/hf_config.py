"""What the config.json of every Hugging Face folder has in common, and its generation_config.json."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.config import ModelConfig
from tigerjax.errors import DataError
from tigerjax.files.foreign import read_object, shown
from tigerjax.model.hf_fields import MAX_SIZE, Fields
from tigerjax.processes import hosts
from tigerjax.tokenizer.added import AGAIN, refuse_repeated

CONFIG, GENERATION = "config.json", "generation_config.json"
BOS, EOS = 1, 2  # of every tokenizer that we train with: all of them extend Llama-2's
OURS = "tigerjax"
"""Our own key in config.json. It holds the sizes of the vocabulary before trimming and a checkpoint's `extra`, so that
an import gives back what was exported."""
SOURCE = "hugging_face"
"""The key of a checkpoint's `extra` under which an import keeps its source's config.json: see `source_fields`."""
SEQ_LEN = "seq_len"
"""The key of a checkpoint's `extra` with the longest rows that it, or what it was made of, was trained on."""
NOT_KEPT = (
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "auto_map", "quantization_config",
    OURS, GENERATION,
)  # fmt: skip
"""What a config.json says of its own tensors, of the program that wrote it, and of code files beside it."""
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
MORE_IDS = (
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
)
"""Other fields of generation_config.json that hold a token id, or a list of them."""
LISTS_OF_IDS = ("bad_words_ids", "force_words_ids")
"""Those that hold lists of lists."""
POSITIONS, FIRST_POSITIONS = "max_position_embeddings", "original_max_position_embeddings"
ROPE = ("rope_scaling", "rope_parameters")
"""Where transformers 4 and 5 say how rotary angles are scaled. Where both say it, transformers reads the first."""
SEQ_LEN_LINE = re.compile(r"data\.seq_len = ([0-9]{1,9})")
MAX_POSITIONS = 2048  # what transformers takes where a Llama's config.json leaves POSITIONS out
BY_RULE = (*TOKEN_IDS, POSITIONS, FIRST_POSITIONS, *ROPE, GENERATION)
"""Fields of the source that an export writes by a rule of their own."""
ORIGINAL = "give the file as its authors published it"


class HfConfig(NamedTuple):
    """What config.json says."""

    kind: str  # what our checkpoint's meta.json calls such a model
    config: ModelConfig
    rows: int
    """Rows of embedding and head in the folder's tensors."""
    extra: dict[str, Any]
    """`extra` of the checkpoint that the folder was exported from: a reward model's calibration. And under SOURCE what
    an export must write again."""
    sized: bool
    """Whether the folder says under OURS how many of its rows are the vocabulary."""


class TokenizerIds(NamedTuple):
    """What config.json says about the tokenizer. `pad` is None where there is no pad token: 0 would be a real id."""

    size: int | None
    bos: Any = BOS
    eos: Any = EOS  # an id, or a list of ids
    pad: int | None = None
    stops: Any = EOS
    """What generation_config.json has as eos_token_id."""


def tokenizer_ids(path: Path, content: dict[str, Any]) -> TokenizerIds:
    """Size, pad and stop ids of a tokenizer.json with this content. A base tokenizer stops at eos only.

    Raises DataError for a content that is no tokenizer.json, and for added tokens that share an id or a text, or whose
    ids leave a gap behind the vocabulary.
    """
    try:
        tokens = [(token["id"], token["content"]) for token in content["added_tokens"]]
        added = {text: i for i, text in tokens}
        vocab = content["model"]["vocab"]  # a unigram's is a list, in the order of its ids
        own = [*(vocab.values() if isinstance(vocab, dict) else range(len(vocab)))]
        ids = [*own, *added.values()]
        if wrong := [i for i in ids if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < MAX_SIZE]:
            raise TypeError(f"an id is {shown(wrong[0])}")
        size = 1 + max(ids)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a tokenizer.json ({type(error).__name__}: {error}); write it again") from error
    refuse_repeated(path, tokens)
    known = 1 + max(own, default=-1)
    beyond = sorted(i for i in added.values() if i >= known)
    if gap := [i for place, i in enumerate(beyond, known) if i != place]:
        raise DataError(
            f"{path}: an added token has id {gap[0]}, but added tokens follow the {known} of the vocabulary without a"
            f" gap; {AGAIN}"
        )
    markers = [i for text, i in added.items() if text not in ("<unk>", "<s>", "</s>")]
    return TokenizerIds(size, pad=added.get("<pad>", added.get("[PAD]")), stops=sorted({EOS, *markers}))


def source_ids(extra: dict[str, Any]) -> TokenizerIds:
    """The ids of the folder that a checkpoint was imported from, as they stood there; bos 1 and eos 2 elsewhere."""
    if SOURCE not in extra:
        return TokenizerIds(None, stops=[EOS])
    defaults = (BOS, EOS, None)  # of transformers' LlamaConfig, where the source leaves a field out
    bos, eos, pad = (extra[SOURCE].get(name, default) for name, default in zip(TOKEN_IDS, defaults, strict=True))
    return TokenizerIds(None, bos, eos, pad, stops=eos)


def refuse_ids(extra: dict[str, Any], entries: int, where: Path) -> None:
    """DataError for a token id that an import keeps of the folder `where`, and that a vocabulary of `entries` lacks."""
    source = extra.get(SOURCE, {})
    for name, content in ((CONFIG, source), (GENERATION, source.get(GENERATION) or {})):
        _check_ids(Fields(content, where / name), entries)


def _check_ids(fields: Fields, entries: int) -> None:
    for name in (*TOKEN_IDS, *MORE_IDS, *LISTS_OF_IDS):
        fields.ids(name, entries, nested=name in LISTS_OF_IDS)


def moved_ids(extra: dict[str, Any], moved: Mapping[int, int]) -> dict[str, Any]:
    """A checkpoint's `extra` in which the token ids of its source are those of a grown vocabulary: `moved` is
    {old id: new id}."""
    if SOURCE not in extra:
        return extra

    def new(value: Any) -> Any:
        return [new(i) for i in value] if isinstance(value, list) else moved.get(value, value)

    def changed(content: dict[str, Any]) -> dict[str, Any]:
        held = [name for name in (*TOKEN_IDS, *MORE_IDS, *LISTS_OF_IDS) if name in content]
        return content | {name: new(content[name]) for name in held}

    source = changed(extra[SOURCE])
    if source.get(GENERATION) is not None:
        source[GENERATION] = changed(source[GENERATION])
    return extra | {SOURCE: source}


def source_fields(fields: Fields, entries: int) -> dict[str, Any]:
    """What an import keeps of a config.json so that an export writes it again: all but NOT_KEPT. A field that is absent
    stays absent. Ids must be below `entries`, its vocab_size.

    Raises DataError for a field with a rule of its own that is out of range, and for NaN."""
    checked: dict[str, Any] = {name: fields.ids(name, entries) for name in TOKEN_IDS}
    checked |= {name: fields.object(name).content for name in ROPE}
    checked |= {name: fields.whole(name, 1, default=None) for name in (POSITIONS, FIRST_POSITIONS)}
    kept = {name: checked.get(name, value) for name, value in fields.content.items() if name not in NOT_KEPT}
    _finite(kept | {OURS: fields.content.get(OURS)}, fields.path)
    return {n: value for n, value in kept.items() if value or n not in (*ROPE, FIRST_POSITIONS)}


def as_came(extra: dict[str, Any]) -> dict[str, Any]:
    """The fields of a checkpoint's source that an export writes again as they came."""
    return {name: value for name, value in extra.get(SOURCE, {}).items() if name not in BY_RULE}


def remembered(extra: dict[str, Any], run_config: list[str]) -> dict[str, Any]:
    """What a checkpoint keeps in its `extra` of another one that it is made of, by training or by a change of its
    vocabulary: the fields of its source, and the longest rows that it was trained on."""
    length = max(trained_length(run_config) or 0, extra.get(SEQ_LEN) or 0)
    return {name: extra[name] for name in (SOURCE,) if name in extra} | ({SEQ_LEN: length} if length else {})


def trained_length(run_config: list[str]) -> int | None:
    """data.seq_len of the run that a checkpoint stores the config of; None where there is none, as in an import."""
    matches = [SEQ_LEN_LINE.fullmatch(line) for line in run_config if isinstance(line, str)]
    return next((int(match[1]) for match in matches if match), None)


def positions(extra: dict[str, Any], seq_len: int | None) -> dict[str, int]:
    """max_position_embeddings of an export: the longest rows that the model was trained on here, or more where its
    source says so. Empty where neither is known."""
    known = max(seq_len or 0, extra.get(SEQ_LEN) or 0, extra.get(SOURCE, {}).get(POSITIONS) or 0)
    return {POSITIONS: known} if known else {}


def generation_config(ids: TokenizerIds, extra: dict[str, Any]) -> dict[str, Any]:
    """The content of generation_config.json. Without a tokenizer the source's own goes out as it came.

    Otherwise it is greedy and stops where our sampler stops (eos, the markers, pad). What the source says about
    sampling stays.
    """
    kept = extra.get(SOURCE, {}).get(GENERATION)
    if kept is not None and ids.size is None:
        return kept
    ours = {"bos_token_id": ids.bos, "eos_token_id": ids.stops, "pad_token_id": ids.pad}
    return (kept or {"do_sample": False}) | ours


def read_generation(folder: Path, entries: int) -> dict[str, Any] | None:
    """The content of a folder's generation_config.json; None where there is none.

    Raises DataError for a file that is no JSON, and for a token id that a vocabulary of `entries` lacks.
    """
    path = folder / GENERATION
    if not path.is_file():
        return None
    content = read_object(path, ORIGINAL, finite=False)
    _check_ids(Fields(content, path), entries)
    _finite(content, path)
    return content


def _finite(content: dict[str, Any], path: Path) -> None:
    try:
        json.dumps(content, allow_nan=False)
    except ValueError as error:
        raise DataError(f"{path}: holds NaN or Infinity, which are not JSON; {ORIGINAL}") from error


def reach(config: ModelConfig, extra: dict[str, Any], run_config: list[str]) -> int:
    """How many positions a checkpoint reads, as far as it says so; 0 where it does not.

    It is the length that it was trained at, or max_position_embeddings of the folder that it was imported from. A rope
    that stretches a shorter length (yarn, dynamic, llama3) reads its factor times that length, where this is more.
    """
    stretched = (config.rope.original_max_position_embeddings or 0) * config.rope.factor
    return max(positions(extra, trained_length(run_config)).get(POSITIONS, 0), int(stretched))


def say_past(known: int, config: ModelConfig, length: int, where: Any) -> None:
    """Says it in one line where rows of `length` tokens are longer than the `known` positions that the model of `where`
    reads; 0 is not known."""
    if known and length > known:
        hosts.say(
            f"warning: rows of {length:,} tokens are past the {known:,} positions of {where} ({POSITIONS}); its rope is"
            f" of kind {config.rope.kind}, factor {config.rope.factor:g}"
        )


def read_fields(folder: Path) -> Fields:
    """The fields of a folder's config.json.

    Raises DataError where there is no such file.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise DataError(f"{path}: not there; give a Hugging Face model folder")
    return Fields(read_object(path, ORIGINAL, finite=False), path)
