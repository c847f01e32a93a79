"""What a Hugging Face config.json says about rotary angles, both ways.

transformers 4 writes `rope_theta` and `rope_scaling` beside each other, transformers 5 one object `rope_parameters`.
"""

from pathlib import Path
from typing import Any

from tigerjax.config import ModelConfig, RopeConfig, ranges
from tigerjax.config.rope import USES
from tigerjax.errors import DataError
from tigerjax.files.foreign import shown
from tigerjax.model.hf_config import FIRST_POSITIONS, MAX_POSITIONS, POSITIONS, ROPE, SOURCE
from tigerjax.model.hf_fields import Fields
from tigerjax.model.rope import yarn_magnitude

OMITTED_THETA = 10_000.0  # what transformers takes where it is left out, as by Llama-2-7b-hf
MAX_THETA = 1e12  # the largest that is published is 1e8
MAX_FACTOR = 1e6


def theta(fields: Fields) -> float:
    """The base of the angles, from the first place that says it."""
    for place in map(fields.object, ROPE):
        if place.content.get("rope_theta") is not None:
            return place.real("rope_theta", 1, MAX_THETA)
    return fields.real("rope_theta", 1, MAX_THETA, default=None) or OMITTED_THETA


def scaling(fields: Fields) -> RopeConfig:
    """How the angles are scaled. Call `refused` first.

    DataError for a field that is missing or wrong; ConfigError for fields that contradict each other."""
    configs = [_of_place(place, fields) for place in map(fields.object, ROPE) if place.content]
    if len(set(configs)) > 1:
        raise DataError(
            f"{fields.path}: rope_scaling says kind {configs[0].kind} and rope_parameters kind {configs[1].kind},"
            " or they have other numbers; keep the one that the model was trained with"
        )
    return configs[0] if configs else RopeConfig()


def refused(fields: Fields) -> list[str]:
    """The kinds of rotary angles that no model here computes, each with its value."""
    found = []
    for name in ROPE:
        rope = fields.object(name)
        part = rope.real("partial_rotary_factor", 0, 1, default=1.0)
        if any(isinstance(value, dict) for value in rope.content.values()):
            found.append(f"{name} of several kinds of layers")
        elif (kind := _kind(rope)) not in USES:
            found.append(f"{name} {shown(kind)} {shown(rope.content)} (known are {', '.join(USES)})")
        elif part != 1:
            found.append(f"{name}.partial_rotary_factor={part:g}")
    if (part := fields.real("partial_rotary_factor", 0, 1, default=1.0)) != 1:
        found.append(f"partial_rotary_factor={part:g}")
    return found


def written(config: ModelConfig, extra: dict[str, Any], positions: dict[str, int]) -> dict[str, Any]:
    """The fields of an export, max_position_embeddings included: as the source had them, where they still say what
    the model computes."""
    if config.rope.kind == "dynamic":  # its original length has no other field
        assert config.rope.original_max_position_embeddings is not None
        positions = {POSITIONS: config.rope.original_max_position_embeddings}
    fields: dict[str, Any] = {"rope_theta": config.rope_base, ROPE[0]: None} | positions
    came = {name: value for name, value in extra.get(SOURCE, {}).items() if name in (*ROPE, FIRST_POSITIONS)}
    as_came = Fields(fields | came, Path("config.json"))
    if came and (theta(as_came), scaling(as_came)) == (config.rope_base, config.rope):
        return as_came.content
    if config.rope.kind == "default":
        return fields
    values = {name: getattr(config.rope, name) for name in USES[config.rope.kind]}
    if config.rope.kind == "dynamic":
        del values[FIRST_POSITIONS]
    known = {name: value for name, value in values.items() if value is not None}
    return fields | {ROPE[0]: {"rope_type": config.rope.kind} | known}


def _kind(rope: Fields) -> str:
    return str(rope.text("rope_type", None) or rope.text("type", None) or "default")


def _of_place(rope: Fields, fields: Fields) -> RopeConfig:
    kind = _kind(rope)
    if kind == "default":
        return RopeConfig()
    reach = fields.whole(POSITIONS, 1, ranges.INT32, default=None) or MAX_POSITIONS
    if kind == "dynamic":
        return RopeConfig(kind="dynamic", factor=_number(rope, "factor"), original_max_position_embeddings=reach)
    if kind == "linear":
        return RopeConfig(kind="linear", factor=_number(rope, "factor"))
    inside = rope.whole(FIRST_POSITIONS, 1, ranges.INT32, default=None)
    first = fields.whole(FIRST_POSITIONS, 1, ranges.INT32, default=None) or inside or reach
    if kind == "llama3":
        return RopeConfig(
            kind="llama3",
            factor=_number(rope, "factor"),
            original_max_position_embeddings=first,
            low_freq_factor=_number(rope, "low_freq_factor"),
            high_freq_factor=_number(rope, "high_freq_factor"),
        )
    factor = reach / first if rope.content.get("factor", 0) is None else _number(rope, "factor")
    return RopeConfig(
        kind="yarn",
        factor=factor,
        original_max_position_embeddings=first,
        attention_factor=_attention_factor(rope, factor),
        beta_fast=rope.real("beta_fast", 0, MAX_FACTOR, default=None) or 32.0,
        beta_slow=rope.real("beta_slow", 0, MAX_FACTOR, default=None) or 1.0,
        truncate=rope.flag("truncate") if "truncate" in rope.content else True,
    )


def _attention_factor(rope: Fields, factor: float) -> float | None:
    given: float | None = rope.real("attention_factor", 0, MAX_FACTOR, default=None)
    above, below = (rope.real(name, -1, MAX_FACTOR, default=None) for name in ("mscale", "mscale_all_dim"))
    if given is None and above and below:
        return yarn_magnitude(factor, above) / yarn_magnitude(factor, below)
    return given


def _number(rope: Fields, name: str) -> float:
    """A number that the kind cannot do without."""
    value: float = rope.real(name, 0, MAX_FACTOR)
    return value
