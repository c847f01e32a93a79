"""From data to export: which folder was made of which, read from the manifests, and drawn as a graph.

A node is a stage's folder, a training run, the rows of a mixture, or a file that no stage wrote. Manifests name their
inputs as paths; those are followed, also out of the folder that is reported, as long as they are there.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tigerjax.files import manifest, paths
from tigerjax.report.charts import clean
from tigerjax.report.figures import number
from tigerjax.report.parts import section

ASIDE = {"answers", "parity", "tensorboard", "checkpoints"}
"""Folders below a run that hold what was asked of models, or no manifest of ours."""
WIDE, TALL, BOX, HIGH = 178, 66, 164, 42  # px: a column, a row, and the box of a node
DEEPEST = 40  # inputs of inputs; a cycle would never end


def collect(folder: Path) -> list[dict[str, Any]]:
    """[{name, stage, said, of: [indices]}], inputs before what is made of them; empty where nothing has a manifest."""
    nodes: dict[str, dict[str, Any]] = {}
    files = [Path(name) for name in paths.sizes(folder) if Path(name).name in (manifest.FILE, "config.txt")]
    found = sorted({folder / p.parent for p in files if not ASIDE & set(p.parts)})
    for place in found:
        if not any(other != place and place.is_relative_to(other) for other in found if other != folder):
            if not (place.name.startswith(_mixtures(found)) and (manifest.read(place) or {}).get("stage") == "cache"):
                _add(place, folder, nodes, 0)
    order = {key: i for i, key in enumerate(nodes)}
    return [node | {"of": sorted({order[k] for k in node["of"] if k in order})} for node in nodes.values()]


def _mixtures(places: Sequence[Path]) -> tuple[str, ...]:
    """Beginnings of the names of rows that some run below was trained on: they are added with the run."""
    configs = [_config(place) for place in places]
    return tuple(f"{c['data.mixture']}." for c in configs if "data.mixture" in c)


def _add(path: Path, folder: Path, nodes: dict[str, dict[str, Any]], depth: int) -> str:
    """The key of the node that `path` belongs to; adds it, after its inputs."""
    home = _home(path, folder)
    key = str(home if home is not None else path)
    if key in nodes or depth > DEEPEST:
        return key
    if home is None:
        nodes[key] = {"name": path.name, "stage": "file", "said": "", "of": []}
        return key
    found, config, inputs = manifest.read(home) or {}, _config(home), []
    stage = found.get("stage", "train" if config else "")
    for given in found.get("inputs") or []:
        inputs.append(_add(_there(given["path"], folder), folder, nodes, depth + 1))
    if config:
        inputs += _of_config(config, folder, nodes, depth)
    if checkpoint := found.get("lineage", {}).get("checkpoint"):
        inputs.append(_add(_there(checkpoint, folder), folder, nodes, depth + 1))
    name = str(home.relative_to(folder)) if home.is_relative_to(folder) and home != folder else home.name
    nodes[key] = {"name": name, "stage": stage, "said": _said(found, home), "of": inputs}
    return key


def _of_config(config: Mapping[str, Any], folder: Path, nodes: dict[str, dict[str, Any]], depth: int) -> list[str]:
    """Keys of the checkpoint that a run started from, and of its rows, one node a mixture."""
    keys = []
    if config.get("checkpoint.init_from"):
        keys.append(_add(_there(config["checkpoint.init_from"], folder), folder, nodes, depth + 1))
    cache, mixture = _there(config["data.cache_dir"], folder), config["data.mixture"]
    there = [cache / name for name in paths.names(cache) if name.startswith(f"{mixture}.")]
    sources = [m for place in there if (m := manifest.read(place)) is not None]
    if sources:
        key = f"{cache}/{mixture}"
        tokenizer = [_add(_there(config["data.tokenizer"], folder), folder, nodes, depth + 1)]
        made_of = {_add(_there(i["path"], folder), folder, nodes, depth + 1) for m in sources for i in m["inputs"]}
        rows = sum(m["figures"].get("rows", 0) for m in sources)
        said = f"{number(rows)} rows, {len(sources)} sources" if len(sources) > 1 else f"{number(rows)} rows"
        nodes.setdefault(key, {"name": mixture, "stage": "rows", "said": said, "of": [*sorted(made_of), *tokenizer]})
        keys.append(key)
    return keys


def _home(path: Path, folder: Path) -> Path | None:
    """The folder with a manifest or a run's config that holds `path`; None for a file of its own."""
    for place in (path, *list(path.parents)[: min(4, len(path.parts) - 3) if paths.on_bucket(path) else 4]):
        if (place / manifest.FILE).is_file() or (place / "config.txt").is_file():
            within = place != folder and "stage" in (manifest.read(place.parent) or {})
            return place.parent if within else place  # a run inside a stage is part of it
        if place in (folder, Path(".")):
            break
    return None


def _there(path: str, folder: Path) -> Path:
    """A path of a manifest, as it stands or else found below `folder`, which may have been moved since."""
    given = paths.of(path)
    parts, name = given.parts, paths.resolved(folder).name
    below = [folder.joinpath(*parts[i:]) for i in range(len(parts))]
    if name in parts:
        below = [folder.joinpath(*parts[len(parts) - parts[::-1].index(name) :])]
    elif given.exists():
        return given
    return next((place for place in below if place.exists()), given)


def _config(place: Path) -> dict[str, Any]:
    """The values that lineage needs of a run's config.txt."""
    path = place / "config.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = [line.split(" = ", 1) for line in lines if line.startswith(("data.", "checkpoint.init_from"))]
    return {key: ast.literal_eval(value) for key, value in pairs}


def _said(found: Mapping[str, Any], home: Path) -> str:
    """The figure that tells most of a stage, in a few words."""
    counts, figures = found.get("counts") or {}, found.get("figures") or {}
    if "in" in counts and "out" in counts:
        return f"{number(counts['in'])} → {number(counts['out'])}"
    if "vocab_size" in figures:
        return f"{number(figures['vocab_size'])} entries"
    if "tensors" in counts:
        return f"{number(counts['tensors'])} tensors"
    for metrics in (home / "metrics.jsonl", home / "run" / "metrics.jsonl"):
        if metrics.is_file() and (lines := metrics.read_text(encoding="utf-8").splitlines()):
            return f"step {number(json.loads(lines[-1])['step'])}"
    return ""


def graph(report: Mapping[str, Any]) -> str:
    """The section; rows go from what nobody made, at the top, to what is made of everything."""
    nodes = report.get("lineage") or []
    if len(nodes) < 2:
        return ""
    depth: list[int] = []
    for node in nodes:
        depth.append(1 + max((depth[i] for i in node["of"]), default=-1))
    for i, node in enumerate(nodes):  # a source stands beside its first user, so that arrows are short
        users = [depth[j] for j, other in enumerate(nodes) if i in other["of"]]
        if not node["of"] and users:
            depth[i] = min(users) - 1
    columns: dict[int, int] = {}
    rows = [[i for i, d in enumerate(depth) if d == row] for row in range(max(depth) + 1)]
    for row in rows:
        middle = {i: _mean([columns[j] for j in nodes[i]["of"] if j in columns]) for i in row}
        for column, i in enumerate(sorted(row, key=lambda i: (middle[i], i))):
            columns[i] = column
    boxes, lines = "", ""
    for i, node in enumerate(nodes):
        x, y = WIDE * columns[i], TALL * depth[i]
        for j in node["of"]:
            x0, y0, x1 = WIDE * columns[j] + BOX / 2, TALL * depth[j] + HIGH, x + BOX / 2
            bend = (y + y0) / 2
            lines += f'<path class="arrow" d="M{x0} {y0}C{x0} {bend} {x1} {bend} {x1} {y}"/>'
        kind = "file" if node["stage"] == "file" else "run" if node["stage"].endswith("train") else "stage"
        below = ", ".join(filter(None, [node["stage"].replace("_", " "), node["said"]]))
        boxes += (
            f'<g transform="translate({x} {y})"><title>{clean(node["name"])}: {clean(below)}</title>'
            f'<rect class="node {kind}" width="{BOX}" height="{HIGH}" rx="5"/>'
            f'<text class="name" x="8" y="17">{clean(_short(node["name"], 23))}</text>'
            f'<text class="tick" x="8" y="33">{clean(below if len(below) < 28 else below[:26] + "…")}</text></g>'
        )
    width, height = WIDE * max(map(len, rows)) - (WIDE - BOX) + 2, TALL * len(rows) - (TALL - HIGH) + 2
    title = f"{len(nodes)} folders and files, from {nodes[0]['name']} to {nodes[-1]['name']}"
    body = (
        f'<div class="wide"><svg role="img" class="lineage" width="{width}" height="{height}"'
        f' viewBox="-1 -1 {width} {height}"><title>{clean(title)}</title>{lines}{boxes}</svg></div>'
    )
    lead = "What was made of what, by the manifests: files that nobody made above, what was made last below."
    return section("graph", "From data to export", lead, body)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0


def _short(text: str, most: int) -> str:
    """The end of a long text tells more than its beginning: folders stand before names."""
    return text if len(text) <= most else "…" + text[-(most - 1) :]
