"""The address of a server that a user gives: that of a judge's API, or of Label Studio."""

import re
from urllib.parse import SplitResult, urlsplit


def split(url: str) -> SplitResult | None:
    """The parts of an address that Python's HTTP client can open; None for any other.

    It takes ASCII only, a port up to 65535, and a host whose labels have 1 to 63 characters. Anything else is a
    ValueError of another kind each, in the middle of a request.
    """
    if re.search(r"[^\x21-\x7e]", url):
        return None
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        able = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:  # UnicodeError is one
        return None
    return parts if able and not parts.query and not parts.fragment else None
