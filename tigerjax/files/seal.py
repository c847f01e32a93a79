"""JSON files with a checksum of themselves, so that one changed digit is found: meta.json and manifest.json.

The first entry holds the sha256 of the file's own bytes, computed with 64 zeros in its place. The second says that it
must be there, so damage to the first entry is found too. Files of older versions have neither.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from tigerjax.files import written

OWN, SEALED = "own_sha256", "sealed"
ZEROS = "0" * 64
FIRST = re.compile(rb'\{\n "' + OWN.encode() + rb'": "([0-9a-f]{64})",\n')


def text(entries: Mapping[str, Any]) -> str:
    """The entries as JSON, with the checksum in front."""
    sealed = {OWN: ZEROS, SEALED: True} | opened(entries)
    zeroed = written.text(sealed)
    return zeroed.replace(ZEROS, hashlib.sha256(zeroed.encode()).hexdigest(), 1)


def whole(raw: bytes) -> bool | None:
    """Whether the bytes are as they were written; None where they do not begin with a checksum."""
    if (own := FIRST.match(raw)) is None:
        return None
    zeroed = raw[: own.start(1)] + ZEROS.encode() + raw[own.end(1) :]
    return hashlib.sha256(zeroed).hexdigest().encode() == own[1]


def missing(entries: Mapping[str, Any], raw: bytes) -> bool:
    """Whether these entries, read from the bytes, say that a checksum must be there which is not."""
    return whole(raw) is None and (SEALED in entries or OWN in entries)


def opened(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries without those of the checksum."""
    return {name: value for name, value in entries.items() if name not in (OWN, SEALED)}
