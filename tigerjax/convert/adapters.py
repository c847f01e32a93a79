"""LoRA adapters that PEFT wrote: merged into the tensors of their base model while those are read.

The folder holds adapter_config.json and adapter_model.safetensors (or .bin). A matrix becomes W + s * B A, with
s = lora_alpha / r, or lora_alpha / sqrt(r) for `use_rslora` (arXiv 2106.09685 and 2312.03732); an embedding becomes
W + s * (B A)^T. Products and sums are float32. What `modules_to_save` names takes the place of the base's tensor.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Collection
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from tigerjax.convert.forms import LORA
from tigerjax.convert.read import Opened
from tigerjax.convert.tensors import Safetensors, Tensors, TorchFiles
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, paths
from tigerjax.files.foreign import read_object, shown
from tigerjax.model import families
from tigerjax.model.hf_fields import Fields
from tigerjax.model.weights import TensorRow
from tigerjax.terminal import tell

Array = np.ndarray
CONFIG, *WEIGHTS = LORA
MAX_ALPHA = 1e6
NO_EFFECT = (
    "peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "bias",
    "init_lora_weights", "modules_to_save", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode",
    "megatron_core", "runtime_config", "qalora_group_size", "eva_config", "ensure_weight_tying",
)  # fmt: skip
"""Fields that are read here, or that change nothing in a merge. Any other one that is set makes another adapter."""
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""`init_lora_weights` that leave the base as it is. The others (pissa, olora, loftq …) subtract from it, and the
adapter belongs to what remained."""
ALL_LINEAR = "all-linear"
"""As `target_modules`: every linear layer, of which only peft knows which these are."""
SOME_LAYERS = ("layers_to_transform", "layers_pattern", "exclude_modules")
"""With one of these set, fewer modules are adapted than `target_modules` names."""
PREFIX = "base_model.model."
MERGE_THERE = "merge it with peft's merge_and_unload, save that, and convert the result"


class Product(NamedTuple):
    """A pair of LoRA matrices."""

    a: str  # names in the adapter's file
    b: str
    scale: float
    embedding: bool


class Adapter(NamedTuple):
    """An adapter, by the names of the base's tensors."""

    folder: Path
    tensors: Tensors
    products: dict[str, Product]
    saved: dict[str, str]
    """Of the tensors that stand in the adapter as a whole: their name there. A product may be added to one."""
    base: str = ""
    """The name or folder of the model that it was trained on, as its config has it; empty where it has none."""
    fields: Fields = Fields({}, Path())
    """Its config."""

    @property
    def facts(self) -> dict[str, str]:
        """What a checkpoint remembers of the adapter."""
        name = self.folder.name if paths.on_bucket(self.folder) else self.folder.resolve().name
        return {"adapter": name, "adapter_config_sha256": manifest.sha256(self.folder / CONFIG)}


def there(folder: Path) -> bool:
    """Whether the folder holds an adapter."""
    return bool(set(LORA) & set(paths.names(paths.of(folder))))


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a folder, its shapes not yet compared with a base.

    Raises ConfigError for an adapter of another kind than LoRA, DataError for one that is not whole.
    """
    folder = paths.of(folder)
    path = folder / CONFIG
    if not path.is_file():
        raise DataError(f"{path}: not there; copy it beside the adapter's weights")
    fields = Fields(read_object(path, "give the file that peft wrote", finite=False), path)
    _refuse_others(fields)
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()][:1]
    if not files:
        raise DataError(f"{folder / WEIGHTS[0]}: not there; copy it beside {CONFIG}")
    tensors: Tensors = Safetensors(files) if files[0].suffix == ".safetensors" else TorchFiles(files)
    pairs: dict[str, dict[str, str]] = {}
    saved: dict[str, str] = {}
    for name in tensors.shapes:
        module, side = _side(name)
        if side is None:
            saved[module] = name
        else:
            pairs.setdefault(module, {})[side] = name
    products = {}
    for module, pair in pairs.items():
        sides = [side for side in (("A", "B"), ("embedding_A", "embedding_B")) if set(side) == set(pair)]
        if not sides:
            raise DataError(f"{files[0]}: {min(pair.values())} has no other half; copy the adapter again")
        a, b = (pair[side] for side in sides[0])
        scale = _scale(fields, module, _rank(tensors, a, b, files[0]))
        products[f"{module}.weight"] = Product(a, b, scale, sides[0][0] != "A")
    if not products and not saved:
        raise DataError(f"{files[0]}: holds no tensor; copy the adapter again")
    named = fields.content.get("base_model_name_or_path")
    return Adapter(folder, tensors, products, saved, named if isinstance(named, str) else "", fields)


def merged(base: Opened, adapter: Adapter) -> Opened:
    """The base with the adapter in it. A base of another name than that of the adapter's config is noted. A language
    model with the adapter of a reward model becomes one, with the adapter's score in place of its head.

    Raises ConfigError where the base's head is its embedding and the adapter changes one of them, DataError for tensors
    that the base does not have, or has in another shape, and for products that are not those of `target_modules`.
    """
    if adapter.fields.content.get("task_type") == "SEQ_CLS" and not families.is_reward(base.kind):
        base = _with_score(base, adapter)
    shapes, where = base.tensors.shapes, adapter.folder
    changed = {**adapter.products, **adapter.saved}
    if base.config.tied and (own := [name for name in _ends(base) if name in changed]):
        raise ConfigError(f"{where}: changes {own[0]}, but embedding and head of {base.where} are one; {MERGE_THERE}")
    if unknown := sorted(set(changed) - set(shapes)):
        raise DataError(
            f"{where}: changes {unknown[0]} ({len(unknown)} such of {len(changed)}), which {base.where} does not have;"
            " give the base that the adapter was trained on"
        )
    for name in changed:
        for shape in _shapes(adapter, name):
            if shape != shapes[name]:
                raise DataError(
                    f"{where}: {name} is of shape {shape}, but {shapes[name]} in {base.where}; give the base that the"
                    " adapter was trained on, with its vocabulary"
                )
    _refuse_other_modules(base, adapter)
    if adapter.base and _model(adapter.base) != _model(base.where):
        tell(
            f"note: {where} was trained on {shown(adapter.base)} and is merged into {base.where}; these must be the"
            " same model"
        )
    kept = {name: digest for name, digest in base.sums.items() if name not in changed}
    return base._replace(tensors=Merged(base.tensors, adapter), sums=kept)


def _with_score(base: Opened, adapter: Adapter) -> Opened:
    """A language model as the reward model that an adapter with a score makes of it; ConfigError without a score."""
    family = families.of_kind(base.kind)
    spec = family.hf_rows(base.config, rows=base.spec[0].shape[0], reward=True)
    (score,) = (row for row in spec if row.ours == "score")
    if score.theirs not in adapter.saved:
        raise ConfigError(
            f"{adapter.folder}: is the adapter of a reward model and has no {score.theirs}, which {base.where}, a"
            " language model, lacks too; give the reward model that it was trained on, or train the adapter with"
            ' modules_to_save=["score"]'
        )
    heads = {row.theirs for row in base.spec if row.ours == "head"}
    kept = {name: digest for name, digest in base.sums.items() if name not in heads}
    tensors = WithScore(base.tensors, heads, score)
    return base._replace(kind=family.REWARD_KIND, spec=spec, tensors=tensors, sums=kept)


def _model(place: str) -> str:
    """The last name of a model's folder; of a checkpoint that of its run."""
    parts = PurePath(place).parts or (place,)
    return next((name for name, inner in itertools.pairwise(parts) if inner == manifest.CHECKPOINTS), parts[-1])


def _ends(base: Opened) -> list[str]:
    """The names of the embedding and of the head, which a tied model does not have."""
    apart = dataclasses.replace(base.config, tied=False)
    rows = families.of_kind(base.kind).hf_rows(apart, rows=base.config.vocab_size)
    return [row.theirs for row in rows if row.ours in ("embed", "head")]


class WithScore:
    """The tensors of a language model without its head, and the name of a score, whose rows an adapter has."""

    def __init__(self, tensors: Tensors, heads: Collection[str], score: TensorRow):
        self.rows, self.files = tensors.rows, tensors.files
        own = {name: shape for name, shape in tensors.shapes.items() if name not in heads}
        self.shapes = own | {score.theirs: score.shape}


class Merged:
    """The tensors of a base with an adapter in them."""

    def __init__(self, base: Tensors, adapter: Adapter):
        self._base, self._adapter = base, adapter
        self.files = [*base.files, *adapter.tensors.files, adapter.folder / CONFIG]
        self.shapes = base.shapes
        self._last: tuple[str, Array] = ("", np.empty(0))  # the smaller matrix that rows are being made with

    def rows(self, name: str, start: int, stop: int) -> Array:
        tensors, product = self._adapter.tensors, self._adapter.products.get(name)
        saved = self._adapter.saved.get(name)
        base = self._base.rows(name, start, stop) if saved is None else tensors.rows(saved, start, stop)
        if product is None:
            return base
        a_RI = self._whole(product.a)
        if product.embedding:
            return base + product.scale * (a_RI[:, start:stop].T @ tensors.rows(product.b, 0, base.shape[1]).T)
        return base + product.scale * (tensors.rows(product.b, start, stop) @ a_RI)

    def _whole(self, name: str) -> Array:
        if self._last[0] != name:
            tensors = self._adapter.tensors
            self._last = (name, tensors.rows(name, 0, tensors.shapes[name][0]))
        return self._last[1]


def _refuse_others(fields: Fields) -> None:
    kind = fields.text("peft_type", None)
    if kind != "LORA":
        raise ConfigError(f"{fields.path}: peft_type={shown(kind)} is not read, only LORA; {MERGE_THERE}")
    found = [name for name in fields.content if name not in NO_EFFECT and fields.content[name]]
    if fields.text("bias", "none") != "none":
        found.append("bias")
    start = fields.content.get("init_lora_weights", True)
    if not any(start is known or (isinstance(start, str) and start == known) for known in STARTS):
        found.append("init_lora_weights")
    if found:
        raise ConfigError(
            f"{fields.path}: {found[0]}={shown(fields.content[found[0]])} makes another adapter than plain LoRA;"
            f" {MERGE_THERE}"
        )


def _refuse_other_modules(base: Opened, adapter: Adapter) -> None:
    """DataError where the products are not those that `target_modules` names in the base: peft would leave out what it
    does not name, and where some are missing, the file is cut off or belongs to a model of fewer layers."""
    fields, whole = adapter.fields, ".weight"
    if not (targets := fields.content.get("target_modules")) or targets == ALL_LINEAR:
        return
    matches = (
        [targets] if isinstance(targets, str) else [rf"(.*\.)?{re.escape(t)}" for t in fields.texts("target_modules")]
    )
    try:
        named = re.compile("|".join(f"(?:{one})" for one in matches)).fullmatch
    except re.error as error:
        raise DataError(
            f"{fields.path}: target_modules={shown(targets)} is no regular expression ({error}); correct it"
        ) from error
    if others := sorted(name for name in adapter.products if not named(name.removesuffix(whole))):
        raise DataError(
            f"{fields.path}: target_modules={shown(targets)} does not name {others[0].removesuffix(whole)}"
            f" ({len(others)} such of {len(adapter.products)}), which the adapter changes; give its own file"
        )
    if any(fields.content.get(name) for name in SOME_LAYERS):
        return
    linear = [name for name, shape in base.tensors.shapes.items() if len(shape) == 2 and name.endswith(whole)]
    wanted = [name for name in linear if named(name.removesuffix(whole)) and name not in adapter.saved]
    if missing := sorted(set(wanted) - set(adapter.products)):
        raise DataError(
            f"{adapter.folder}: has nothing for {missing[0].removesuffix(whole)} ({len(missing)} such of"
            f" {len(wanted)}), which target_modules names in {base.where}; copy the adapter again, or"
            " give the base that it was trained on"
        )


def _side(name: str) -> tuple[str, str | None]:
    """(the base's module, which half of a product it is), or (the base's tensor, None) for a whole one."""
    inner = name.removeprefix(PREFIX)
    for side in ("A", "B"):
        if inner.endswith(f".lora_{side}.weight"):
            return inner.removesuffix(f".lora_{side}.weight"), side
        if inner.endswith(f".lora_embedding_{side}"):
            return inner.removesuffix(f".lora_embedding_{side}"), f"embedding_{side}"
    return inner.replace(".modules_to_save.", ".").replace(".base_layer.", "."), None


def _rank(tensors: Tensors, a: str, b: str, path: Path) -> int:
    """The inner size of a product. DataError where the two halves have different ones."""
    one, other = tensors.shapes[a], tensors.shapes[b]
    if len(one) != 2 or len(other) != 2 or one[0] != other[1] or not one[0]:
        raise DataError(f"{path}: {a} {one} and {b} {other} cannot be multiplied; copy the adapter again")
    return one[0]


def _scale(fields: Fields, module: str, rank: int) -> float:
    """What the product of a module is multiplied by. DataError where its rank is not the config's."""
    ranks, alphas = fields.object("rank_pattern"), fields.object("alpha_pattern")
    key, of_alpha = _pattern(ranks, module), _pattern(alphas, module)
    said = fields.whole("r", 1) if key is None else ranks.whole(key, 1)
    if said != rank:
        raise DataError(
            f"{fields.path}: says rank {said} for {module}, but its matrices have {rank}; give its own file"
        )
    alpha = fields.real("lora_alpha", 0, MAX_ALPHA) if of_alpha is None else alphas.real(of_alpha, 0, MAX_ALPHA)
    return float(alpha / (math.sqrt(rank) if fields.flag("use_rslora") else rank))


def _pattern(fields: Fields, module: str) -> str | None:
    """The first key that names the module: a regular expression of its last part or parts, as in peft."""
    for key in fields.content:
        try:
            if re.fullmatch(rf"(?:.*\.)?(?:{key})", module):
                return key
        except re.error as error:
            raise DataError(
                f"{fields.path}: {fields.inside}{shown(key)[1:-1]} is no regular expression ({error}); correct it"
            ) from error
    return None


def _shapes(adapter: Adapter, name: str) -> list[tuple[int, ...]]:
    """The shapes of what the adapter has for a tensor of the base: of a whole one, and of a product."""
    shapes = adapter.tensors.shapes
    out = [shapes[adapter.saved[name]]] if name in adapter.saved else []
    if (product := adapter.products.get(name)) is not None:
        (_, into), (rows, _) = shapes[product.a], shapes[product.b]
        out.append((into, rows) if product.embedding else (rows, into))
    return out
