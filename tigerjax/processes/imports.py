"""Imports of large libraries, without what they import in vain."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without(*modules: str) -> Iterator[None]:
    """In this block `modules` cannot be imported, apart from those that are imported already.

    A library that has uses for them if they are installed takes them for absent."""
    imported: dict[str, Any] = sys.modules
    hidden = [name for name in modules if name not in imported]
    imported.update(dict.fromkeys(hidden))  # None is how Python marks a module that must not be imported
    try:
        yield
    finally:
        for name in hidden:
            imported.pop(name, None)
