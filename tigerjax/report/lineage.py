"""From data to export: which folder was made of which, read from the manifests, and drawn as a graph.

A node is a stage's folder, a training run, the rows of a mixture, or a file that no stage wrote. A manifest names its
inputs as paths. Those are followed, also to places outside of the folder that is reported, as far as they exist.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tigerjax.checkpoint.meta import META, read
from tigerjax.config.phases import starts
from tigerjax.files import log, manifest, paths
from tigerjax.pages.graph import GraphNode, graph
from tigerjax.pages.numbers import number

ASIDE = {"answers", "parity", "tensorboard", "checkpoints"}
"""Folders below a run that are no part of the lineage: answers to questions, logs, checkpoints."""
DEEPEST = 40  # how far inputs of inputs are followed; without a limit, a cycle would never end


def collect(folder: Path) -> list[dict[str, Any]]:
    """The nodes as [{name, stage, detail, of: [indices of its inputs]}], inputs before what is made of them.

    Empty where nothing has a manifest.
    """
    nodes: dict[str, dict[str, Any]] = {}
    files = [Path(name) for name in paths.sizes(folder) if Path(name).name in (manifest.FILE, "config.txt")]
    places = sorted({folder / p.parent for p in files if not ASIDE & set(p.parts)})
    for place in places:
        if not any(other != place and place.is_relative_to(other) for other in places if other != folder):
            of_run = place.name.startswith(_mixtures(places)) and (manifest.read(place) or {}).get("stage") == "cache"
            if not of_run:  # the rows of a run's mixture are added with the run, as one node
                _add(place, folder, nodes, 0)
    order = {key: i for i, key in enumerate(nodes)}
    # Two stages that once shared a folder may name each other; such a node keeps what stands before it.
    return [
        node | {"of": sorted({order[k] for k in node["of"] if order.get(k, at) < at})}
        for at, node in enumerate(nodes.values())
    ]


def _mixtures(places: Iterable[Path]) -> tuple[str, ...]:
    """The first parts of the names of the row caches that the runs in `places` were trained on."""
    configs = [_config(place) for place in places]
    return tuple(f"{name}." for config in configs if "data.mixture" in config for name in _names(config))


def _names(config: Mapping[str, Any]) -> list[str]:
    """The mixtures of a run: that of its begin, and those of its later phases."""
    return [config["data.mixture"], *(phase.mixture for phase in starts(config.get("data.phases", ())))]


def _add(path: Path, folder: Path, nodes: dict[str, dict[str, Any]], depth: int) -> str:
    """The key of the node that `path` belongs to. Adds the node and its inputs where they are new."""
    home = _home(path, folder)
    key = str(home if home is not None else path)
    if key in nodes or depth > DEEPEST:
        return key
    if home is None:
        nodes[key] = {"name": path.name, "of": []} | _found(path)
        return key
    manifest_here, config, inputs = manifest.read(home) or {}, _config(home), []
    stage = manifest_here.get("stage", "train" if config else "")
    for given in manifest_here.get("inputs") or []:
        inputs.append(_add(_there(given["path"], folder), folder, nodes, depth + 1))
    if config:
        inputs += _of_config(config, folder, nodes, depth)
    if checkpoint := manifest_here.get("lineage", {}).get("checkpoint"):
        inputs.append(_add(_there(checkpoint, folder), folder, nodes, depth + 1))
    name = str(home.relative_to(folder)) if home.is_relative_to(folder) and home != folder else home.name
    nodes[key] = {"name": name, "stage": stage, "detail": _detail(manifest_here, home), "of": inputs}
    return key


def _found(path: Path) -> dict[str, str]:
    """{stage, detail} of what no stage of this project wrote: a model from elsewhere, a tokenizer, another file."""
    if (path / META).is_file():
        source = (read(path / META).get("extra") or {}).get("source") or {}
        origin = f"from {source['folder']}" if source.get("folder") else ""
        return {"stage": "imported model" if origin else "model", "detail": origin}
    if (path / "config.json").is_file():
        return {"stage": "Hugging Face model", "detail": ""}
    if (path / "tokenizer.model").is_file():
        return {"stage": "tokenizer", "detail": ""}
    if not path.exists():
        return {"stage": "file", "detail": "no longer there"}
    return {"stage": "folder" if path.is_dir() else "file", "detail": ""}


def _of_config(config: Mapping[str, Any], folder: Path, nodes: dict[str, dict[str, Any]], depth: int) -> list[str]:
    """The keys of a run's inputs: the checkpoint that it started from, and its rows, all of a mixture as one node."""
    keys = []
    if config.get("checkpoint.init_from"):
        keys.append(_add(_there(config["checkpoint.init_from"], folder), folder, nodes, depth + 1))
    cache, mixture = _there(config["data.cache_dir"], folder), config["data.mixture"]
    begins = tuple(f"{name}." for name in _names(config))
    there = [cache / name for name in paths.names(cache) if name.startswith(begins)]
    sources = [m for place in there if (m := manifest.read(place)) is not None]
    if sources:
        key = f"{cache}/{mixture}"
        tokenizer = [_add(_there(config["data.tokenizer"], folder), folder, nodes, depth + 1)]
        made_of = {_add(_there(i["path"], folder), folder, nodes, depth + 1) for m in sources for i in m["inputs"]}
        rows = sum(m["figures"].get("rows", 0) for m in sources)
        detail = f"{number(rows)} rows, {len(sources)} sources" if len(sources) > 1 else f"{number(rows)} rows"
        nodes.setdefault(
            key, {"name": mixture, "stage": "rows", "detail": detail, "of": [*sorted(made_of), *tokenizer]}
        )
        keys.append(key)
    return keys


def _home(path: Path, folder: Path) -> Path | None:
    """The folder of the stage or run that `path` is part of; None for a file that no stage wrote."""
    for place in (path, *list(path.parents)[: min(4, len(path.parts) - 3) if paths.on_bucket(path) else 4]):
        if (place / manifest.FILE).is_file() or (place / "config.txt").is_file():
            within = place != folder and "stage" in (manifest.read(place.parent) or {})
            return place.parent if within else place  # a run inside a stage is part of it
        if place in (folder, Path(".")):
            break
    return None


def _there(path: str, folder: Path) -> Path:
    """Where a path of a manifest is now: `folder` may have been moved since, and its contents with it."""
    given = paths.of(path)
    parts, name = given.parts, paths.resolved(folder).name
    below = [folder.joinpath(*parts[i:]) for i in range(len(parts))]
    if name in parts:
        below = [folder.joinpath(*parts[len(parts) - parts[::-1].index(name) :])]
    elif given.exists():
        return given
    return next((place for place in below if place.exists()), given)


def _config(place: Path) -> dict[str, Any]:
    """The values of a run's config.txt that name its inputs; empty where there is none."""
    path = place / "config.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = [line.split(" = ", 1) for line in lines if line.startswith(("data.", "checkpoint.init_from"))]
    return {key: ast.literal_eval(value) for key, value in pairs}


def _detail(made: Mapping[str, Any], home: Path) -> str:
    """A few words with the most telling figure of a stage."""
    counts, figures = made.get("counts") or {}, made.get("figures") or {}
    if "in" in counts and "out" in counts:
        return f"{number(counts['in'])} → {number(counts['out'])}"
    if "vocab_size" in figures:
        return f"{number(figures['vocab_size'])} entries"
    if "tensors" in counts:
        return f"{number(counts['tensors'])} tensors"
    for metrics in (home / "metrics.jsonl", home / "run" / "metrics.jsonl"):
        if logged := log.records(metrics):
            return f"step {number(logged[-1]['step'])}"
    return ""


def graph_section(report: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the section: the graph, with what nobody made at the top."""
    nodes = report.get("lineage") or []
    if len(nodes) < 2:
        return {}
    drawn = []
    for node in nodes:
        stage = node["stage"]
        kind = "run" if stage.endswith("train") else "stage" if node["of"] else "file"
        detail = ", ".join(filter(None, [stage.replace("_", " "), node["detail"]]))
        drawn.append(GraphNode(node["name"], detail, kind, node["of"]))
    return {"chart": graph(drawn, f"{len(nodes)} folders and files, from {nodes[0]['name']} to {nodes[-1]['name']}")}
