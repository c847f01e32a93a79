"""What the config.json of every Qwen has in common: which layers see a window and which see all.

Our layers are all of one kind, so a model whose layers differ is refused.
"""

from typing import Any

from tigerjax.model.hf_fields import Fields

FULL, SLIDING = "full_attention", "sliding_attention"
OMITTED = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "bos_token_id": None,
    "eos_token_id": None,
}
"""What transformers takes for a key that a Qwen's config.json leaves out."""


def window(fields: Fields) -> int | None:
    """The window of all layers; None where they see all. Call `refused` first."""
    return _size(fields) if _kinds(fields) == {SLIDING} else None


def refused(fields: Fields) -> list[str]:
    """Layers of several kinds, and kinds that are not known, with the fields that ask for them."""
    kinds = _kinds(fields)
    if len(kinds) == 1 and kinds <= ({FULL} if _size(fields) is None else {FULL, SLIDING}):
        return []
    if fields.texts("layer_types"):
        return [f"layer_types of {' and '.join(sorted(kinds))}"]
    return [f"use_sliding_window=True from layer max_window_layers={fields.content['max_window_layers']} on"]


def written(size: int | None, layers: int) -> dict[str, Any]:
    """The fields of an export whose layers all have the window `size`, or none."""
    return {
        "use_sliding_window": size is not None,
        "sliding_window": size,
        "max_window_layers": layers if size is None else 0,
    }


def _size(fields: Fields) -> int | None:
    size: int | None = fields.whole("sliding_window", 1, default=None)
    return size if fields.flag("use_sliding_window") else None


def _kinds(fields: Fields) -> set[str]:
    if given := fields.texts("layer_types"):
        return set(given)
    layers, first = fields.whole("num_hidden_layers", 1), fields.whole("max_window_layers", 0)
    if _size(fields) is None or first >= layers:
        return {FULL}
    return {SLIDING} if first == 0 else {FULL, SLIDING}
