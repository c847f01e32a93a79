"""Modules and functions of the user's own, by their names: what registers tasks and mixtures, and what scores."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tigerjax.errors import USERS, ConfigError, TigerjaxError, of_user


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
