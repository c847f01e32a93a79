"""Modules and functions of the user's own, by their names: what registers tasks and mixtures, and what scores."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from types import ModuleType
from typing import Any

from tigerjax.errors import USERS, ConfigError, TigerjaxError, of_user
from tigerjax.files.foreign import shown

UNORDERED = (Mapping, Set, str, bytes, bytearray)
"""What Python iterates over and is no list of results: a table gives its keys, and a set has no order."""


class NotInOrder(Exception):
    """A function leaves open which of its results belongs to what. The text says what it did."""


def imported(module: str, said: str) -> ModuleType:
    """The module of this dotted name; ConfigError, which begins with `said`, where it cannot be imported."""
    try:
        return importlib.import_module(module)
    except TigerjaxError:
        raise
    except USERS as error:
        raise ConfigError(
            f"{said}{module} cannot be imported: {': '.join(of_user(error))};"
            " correct the name, or start in the folder that holds it"
        ) from error


def function(module: str, name: str, said: str) -> Callable[..., Any]:
    """The function of this name in a module; ConfigError, which begins with `said`, where there is none."""
    found: Any = getattr(imported(module, said), name, None)
    if not callable(found):
        raise ConfigError(f"{said}{module} has no function {name}; correct the name")
    own: Callable[..., Any] = found
    return own


def results(function: Callable[[list[Any]], Any], items: Sequence[Any]) -> list[Any]:
    """What a function gives for a list of items, one result each, in their order.

    Raises NotInOrder for results without an order, and for a function that sorts the list that it is given or takes
    items out of it; and whatever the function raises."""
    handed = [*items]
    given = function(handed)
    if inspect.iscoroutine(given):
        given.close()  # else Python warns that nobody has waited for it
    try:
        each = None if isinstance(given, UNORDERED) else iter(given)
    except TypeError:  # None, a number, or what an `async` function gives
        each = None
    if each is None:
        raise NotInOrder(f"gave {shown(given)}, which is no list of scores")
    made = list(each)  # a generator runs here
    if len(handed) != len(items) or any(a is not b for a, b in zip(handed, items, strict=True)):
        raise NotInOrder("changed the list that it was given, so which score belongs to what is not known")
    return made
