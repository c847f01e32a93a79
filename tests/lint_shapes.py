"""Checks the shape suffixes of names against the operations that they go through.

    jnp.einsum("BTD,DNH->BTNH", x_BTD, wq_DNH)      # fine
    jnp.einsum("BTD,DNH->BTNH", x_BTD, wk_DKH)      # error: wk_DKH is given as DNH
    q_BTNH = jnp.einsum("BTD,DKH->BTKH", ...)       # error: assigned an einsum of shape BTKH
    q_BTKGH = q_BTNH.reshape(B, T, N, H)            # error: 4 sizes for 5 dimensions
    k_BKTH = k_BTKH.swapaxes(1, 3)                  # error: that is BHKT
    x_BTD = x_BTF                                   # error: another array's suffix

One renaming is allowed: an array may be read with S for T, since self-attention builds k and v along T and reads
them along S. `astype` and scaling by a scalar (`einsum(...) * H**-0.5`) are looked through. An einsum string is
written literally, in the letters of the legend, so that it can be checked at all.

    python tests/lint_shapes.py FILE...             # prints file:line: what; exits 1 when there is anything
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

LEGEND = frozenset("BTSLMDFVCNKGH")  # docs: names of tensor dimensions, project-wide
SUFFIX = re.compile(r"_([A-Z][A-Z0-9]*)$")

Found = Iterator[tuple[int, str]]


def suffix(node: ast.AST) -> str | None:
    """The dimension letters of a name or attribute; None when it carries none (CONSTANTS do not)."""
    name = getattr(node, "id", getattr(node, "attr", None))
    found = SUFFIX.search(name) if isinstance(name, str) and not name.isupper() else None
    return found.group(1) if found and set(found.group(1)) <= LEGEND | {"1"} else None


def same(have: str | None, want: str) -> bool:
    """An unknown shape agrees with everything; S may stand for T."""
    return have is None or have == want or ("S" not in have and have.replace("T", "S") == want)


def method(node: ast.AST) -> str:
    """`x` of a call `something.x(...)`, else nothing."""
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""


def seen_through(node: ast.AST) -> ast.AST:
    """What is left when `.astype(...)` and scaling by a name without suffix or by a number are taken off."""
    while True:
        if method(node) == "astype":
            node = node.func.value
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
            node = node.left
        else:
            return node


def integers(nodes: list[ast.expr]) -> list[int] | None:
    """The values of literal integers, also given as one tuple; None when any is not literal."""
    if len(nodes) == 1 and isinstance(nodes[0], ast.Tuple | ast.List):
        nodes = nodes[0].elts
    try:
        values = [ast.literal_eval(n) for n in nodes]
    except (ValueError, TypeError):
        return None
    return values if all(isinstance(v, int) for v in values) else None


def permuted(node: ast.AST) -> str | None:
    """The suffix of a transposed array (`.T`, `.mT`, `.swapaxes(i, j)`, `.transpose(...)`), where it can be told."""
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        old = suffix(node.value)
        return None if old is None else old[::-1] if node.attr == "T" else old[:-2] + old[:-3:-1]
    if method(node) not in ("swapaxes", "transpose"):
        return None
    array, args = node.func.value, list(node.args)
    if isinstance(array, ast.Name) and array.id in ("jnp", "np", "jax") and args:
        array, args = args[0], args[1:]
    old, order = suffix(seen_through(array)), integers(args)
    if old is None or order is None or any(not -len(old) <= i < len(old) for i in order):
        return None
    if node.func.attr == "transpose":
        return "".join(old[i] for i in order) if len(order) == len(old) else old[::-1] if not order else None
    letters = list(old)
    i, j = order
    letters[i], letters[j] = letters[j], letters[i]
    return "".join(letters)


def einsum_errors(call: ast.Call) -> Found:
    """Of one einsum: its string against itself, the legend and the suffixes of its operands."""
    spec = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    if not isinstance(spec, str) or spec.count("->") != 1:
        yield call.lineno, "einsum wants a literal string with '->' as its first argument"
        return
    inputs, out = spec.replace(" ", "").split("->")
    operands = inputs.split(",")
    for letter in sorted(set(inputs + out) - LEGEND - {","}):
        yield call.lineno, f"einsum {spec!r} uses {letter!r}, which is not in the legend"
    for letter in sorted(set(out) - set(inputs)):
        yield call.lineno, f"einsum {spec!r} yields {letter!r}, which no operand has"
    given = call.args[1:]
    if len(given) != len(operands) and not any(isinstance(a, ast.Starred) for a in given):
        yield call.lineno, f"einsum {spec!r} names {len(operands)} operands and is given {len(given)}"
    for want, arg in zip(operands, given, strict=False):
        node = seen_through(arg)
        have = permuted(node) or suffix(node)
        if not same(have, want):
            yield arg.lineno, f"{ast.unparse(arg)} is given to einsum as {want}"


def assignment_errors(target: ast.AST, value: ast.AST) -> Found:
    """Of `target = value`, where the value is an einsum, a reshape, a transpose or another name."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        for one, its in zip(target.elts, value.elts, strict=True):
            yield from assignment_errors(one, its)
        return
    have = suffix(target)
    if have is None:
        return
    name, line, bare = ast.unparse(target), target.lineno, seen_through(value)
    if method(bare) == "einsum" and bare.args and isinstance(bare.args[0], ast.Constant):
        out = str(bare.args[0].value).replace(" ", "").partition("->")[2]
        if have != out:
            yield line, f"{name} is assigned an einsum of shape {out}"
    elif method(bare) == "reshape" and ast.unparse(bare.func.value) not in ("jnp", "np"):
        tupled = len(bare.args) == 1 and isinstance(bare.args[0], ast.Tuple)
        sizes = bare.args[0].elts if tupled else bare.args
        told = tupled or len(sizes) > 1  # one bare argument may be a shape held in a name
        if told and not any(isinstance(s, ast.Starred) for s in sizes) and len(sizes) != len(have):
            yield line, f"{name} has {len(have)} dimensions and is reshaped to {len(sizes)} sizes"
    elif (new := permuted(bare)) is not None:
        if not same(new, have):
            yield line, f"{name} is assigned a transpose of shape {new}"
    elif bare is value or method(value) == "astype":  # a plain copy, or a cast
        if isinstance(bare, ast.Name | ast.Attribute) and not same(suffix(bare), have):
            yield line, f"{name} is assigned {ast.unparse(bare)}"


def errors(source: str, name: str) -> list[str]:
    """Every disagreement in one file's text, as sorted `name:line: what` lines."""
    found: set[tuple[int, str]] = set()
    for node in ast.walk(ast.parse(source)):
        if method(node) == "einsum":
            found.update(einsum_errors(node))
        if isinstance(node, ast.Assign):
            for target in node.targets:
                found.update(assignment_errors(target, node.value))
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            found.update(assignment_errors(node.target, node.value))
    return [f"{name}:{line}: {what}" for line, what in sorted(found)]


if __name__ == "__main__":
    lines = [e for path in sys.argv[1:] for e in errors(Path(path).read_text(encoding="utf-8"), path)]
    print("".join(f"{line}\n" for line in lines), end="")
    sys.exit(bool(lines))
