"""Two sources of damage: bytes of a file that are changed, and values in its JSON that are replaced."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

DEEP = "[" * 50_000 + "]" * 50_000
RAW = [
    *("null", "true", "false", "0", "-1", "1", "7", "0.5", "-0.0", "1e999", "-1e999", "NaN", "Infinity", "1e400"),
    *("9" * 30, "9" * 5000, "-" + "9" * 400, "1e-400", '""', '" "', '"x"', '"\\ud800"', '"\\udfff a"', '"\\u0000"'),
    *('"\\u001b[31mred"', '"a\\nb\\rc\\u2028d"', '"<script>"', '"../../x"', '"/etc/passwd"', '"gs://b/x"', '"\\ufeff"'),
    *("[]", "[null]", "[[]]", '["a", 1]', "[0]", "{}", '{"a": 1}', '{"": null}', '{"a": 1, "a": [2]}', DEEP),
    *(
        '"' + "long " * 20_000 + '"',
        '"' + "\\n" * 5000 + '"',
        '"老虎在山里走。"',
        '"7"',
        '"nan"',
        '"-1"',
        "[" + "1," * 999 + "1]",
    ),
]
"""JSON texts that a program may not expect; some of them are no JSON for others."""


class Raw(str):
    """A text that stands in the JSON as it is."""


def dumped(value: Any) -> str:
    """JSON in which `Raw` texts stand as they are."""
    raws: list[str] = []

    def marked(value: Any) -> Any:
        if isinstance(value, Raw):
            raws.append(value)
            return f"\x01raw{len(raws) - 1}\x01"
        if isinstance(value, dict):
            return {name: marked(inner) for name, inner in value.items()}
        return [marked(inner) for inner in value] if isinstance(value, list) else value

    text = json.dumps(marked(value))
    for number, raw in enumerate(raws):
        text = text.replace(f'"\\u0001raw{number}\\u0001"', raw)
    return text


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))]


def weird() -> st.SearchStrategy[Any]:
    """A value that is of the wrong type, huge, deep, not finite, empty, very long or half a character."""
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from([*map(Raw, RAW)])
    )
    return st.one_of(
        st.sampled_from([*map(Raw, RAW)]),
        st.recursive(leaves, lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=6), s, max_size=3)),
    )


def changed(draw: Any, value: Any) -> Any:
    """The value with one place replaced, removed, doubled, renamed, exchanged with another or moved a little."""
    at = draw(st.sampled_from(places(value)))
    if not at:
        return draw(weird())
    value = json.loads(json.dumps(value))
    parent = value
    for key in at[:-1]:
        parent = parent[key]
    key, old = at[-1], parent[at[-1]]
    how = draw(st.sampled_from(("replace", "replace", "replace", "remove", "double", "rename", "swap", "near")))
    if how == "remove":
        del parent[key]
    elif how == "double" and isinstance(parent, list):
        parent.insert(key, old)
    elif how == "rename" and isinstance(parent, dict):
        parent[draw(st.text(max_size=8))] = parent.pop(key)
    elif how == "swap":
        other = draw(st.sampled_from(list(parent) if isinstance(parent, dict) else range(len(parent))))
        parent[key], parent[other] = parent[other], old
    elif how == "near" and isinstance(old, bool | int | float):
        parent[key] = draw(st.sampled_from((-old, old + 1, old - 1, old * 1000, float(old), str(old), not old)))
    elif how == "near" and isinstance(old, str):
        parent[key] = draw(
            st.sampled_from((old[:-1], old + " ", old.upper(), old * 2, [old], {"text": old}, old + "\0"))
        )
    else:
        parent[key] = draw(weird())
    return value


def json_damage(draw: Any, text: str) -> str:
    """The text of a JSON or JSONL file with one to three values changed, so that it is JSON still, or nearly."""
    lines = text.splitlines()
    try:
        whole = [json.loads(text)]
    except ValueError:
        whole = []
    values = whole or [json.loads(line) for line in lines if line.strip()] or [draw(weird())]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(values) - 1))
        if not isinstance(values[at], str):
            damaged = changed(draw, values[at])
            text = dumped(damaged)
            values[at] = Raw(text)
    return "\n".join(map(dumped, values)) + "\n"


def byte_damage(draw: Any, data: bytes) -> bytes:
    """The bytes with one thing done to them: flipped, cut, inserted, a block doubled, zeroed or removed."""
    if not data:
        return draw(st.binary(min_size=1, max_size=8))
    at = draw(st.integers(0, len(data) - 1))
    end = min(len(data), at + draw(st.integers(1, max(1, min(64, len(data) - 1)))))
    how = draw(st.sampled_from(("flip", "flip", "byte", "cut", "insert", "double", "zero", "remove", "behind")))
    if how == "flip":
        return data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
    if how == "byte":
        return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    if how == "cut":
        return data[:at]
    if how == "insert":
        return data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:]
    if how == "double":
        return data[:end] + data[at:end] + data[end:]
    if how == "zero":
        return data[:at] + bytes(end - at) + data[end:]
    return data[:at] + data[end:] if how == "remove" else data + data[at:end]


def damaged_files(
    draw: Any, folder: Path, files: list[str], texts: bool, head: Callable[[bytes], int] = len
) -> dict[str, bytes]:
    """{file: its new bytes}, of one file or of two that are exchanged; with `texts` by its JSON, else by its bytes."""
    name = draw(st.sampled_from(files))
    data = (folder / name).read_bytes()
    if texts:
        return {name: json_damage(draw, data.decode("utf-8-sig")).encode("utf-8", "surrogatepass")}
    if len(files) > 1 and draw(st.integers(0, 9)) == 0:
        other = draw(st.sampled_from([f for f in files if f != name]))
        return {name: (folder / other).read_bytes(), other: data}
    return {name: byte_damage(draw, data[: head(data)]) + data[head(data) :]}
