"""The model card of an export: what it is, and where it comes from."""

from typing import Any

import tigerjax
from tigerjax.config import ModelConfig
from tigerjax.model import families
from tigerjax.pages import markdown

FILE = "README.md"


def text(config: ModelConfig, kind: str, facts: dict[str, Any], lineage: dict[str, Any]) -> str:
    """Markdown with the front matter that Hugging Face reads. `kind` is the checkpoint's; `lineage` maps a name to a
    value or to a list of lines.

    A licence and scores are left out: only the owner knows them.
    """
    sizes = {
        "layers": config.num_layers,
        "model dimension": config.model_dim,
        "mlp dimension": config.mlp_dim,
        "heads / kv heads": f"{config.num_heads} / {config.num_kv_heads}",
        "head dimension": config.head_dim,
        "vocabulary": f"{config.vocab_size:,} ({config.padded_vocab_size:,} with padding in training)",
        "rope_theta": config.rope_base,
    }
    if config.rope.kind != "default":
        sizes["rope"] = f"{config.rope.kind}, factor {config.rope.factor:g}"
    if config.tied:
        sizes["head"] = "the embedding (tied)"
    if config.extras.window is not None:
        sizes["sliding window"] = config.extras.window
    reward, family = families.is_reward(kind), families.of_kind(kind)
    what = "reward model, one score" if reward else "causal language model"
    tag = "text-classification" if reward else "text-generation"
    tags = f"tags: [{family.KIND}, tigerjax]"
    lines = ["---", "library_name: transformers", f"pipeline_tag: {tag}", tags, "---", ""]
    lines += [f"# {families.architecture(kind)}", "", f"A {what}, exported by tigerjax {tigerjax.__version__}.", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in (sizes | facts).items()), ""]
    lines += ["## Lineage", ""]
    lists = {name: value for name, value in lineage.items() if isinstance(value, list)}
    lines += [
        f"- {name}: {markdown.span(value)}"
        for name, value in lineage.items()
        if name not in lists and value is not None
    ]
    for name, values in lists.items():
        if values:
            shown = markdown.block("\n".join(map(str, values)))
            lines += ["", f"<details><summary>{name}</summary>", "", *shown, "", "</details>"]
    lines += ["", "`checksums.json` holds the sha256 of every tensor's bytes.", ""]
    return "\n".join(lines)
