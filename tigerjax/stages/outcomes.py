"""The result of a function for one item, or its error for the user, in a form that goes from process to process."""

from collections.abc import Callable
from typing import Any

from tigerjax.errors import TigerjaxError, again
from tigerjax.files import paths


def outcome(function: Callable[[Any], Any], item: Any) -> dict[str, Any]:
    """`function(item)`, or the TigerjaxError that it raised, as what JSON can hold."""
    try:
        with paths.bucket_errors():
            return {"result": function(item)}
    except TigerjaxError as error:
        return {"error": type(error).__name__, "message": str(error)}


def result(given: dict[str, Any]) -> Any:
    """What the function returned; raises its error again."""
    if "error" not in given:
        return given["result"]
    raise again(given["error"], given["message"])
