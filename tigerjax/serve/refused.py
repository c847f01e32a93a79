"""Why a request is refused: an HTTP status and one line, in the form of OpenAI's errors."""

from collections.abc import Mapping
from typing import Any

from tigerjax.terminal import in_short, one_line

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
"""The `type` of an error by its status."""


class Refused(Exception):
    """A request that gets no answer. Its message says what was given, what is needed, and what to change."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """{error: {message, type, param, code}}, where the message is one line."""
        message = in_short(one_line(self))
        return {"error": {"message": message, "type": KINDS[self.status], "param": self.param, "code": self.code}}
