"""Reads web archives, WARC and WET (ISO 28500): each page is a document {id, text, url, date}.

Of a WET file (`conversion` records) the text is taken as it stands, of a WARC file the text of the HTML pages and plain
texts that a server gave (`response` and `resource` records, status 200). All others, such as requests, pictures and
pages that were not found, are no documents: one line on standard error counts them by their kind. Numbers count all
records of the file, from 1.
"""

import codecs
import contextlib
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from tigerjax.errors import DataError
from tigerjax.files import jsonl, packed
from tigerjax.records.block import FileBlock
from tigerjax.records.html_text import declared_charset, html_text
from tigerjax.records.notes import note

MOST_HEADERS = 1 << 16
"""Bytes of the header lines of one record."""
PAGES = ("text/html", "application/xhtml+xml", "text/plain")
"""The media types whose text is read."""
_NUMBER = re.compile(r"[0-9]{1,18}")
_VERSION = re.compile(rb"WARC/[01]\.\d+\s*")
_STATUS = re.compile(rb"HTTP/[\d.]+ (\d{3})\b")
LEAST_CHINESE, COMMON_SHARE = 4, 0.9
"""A page that names no charset is Chinese with so many common characters, which are such a share of all but ASCII."""
_CHARSET = re.compile(r"charset=[\"']?([\w.:-]+)", re.I)
CHARSETS = {"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "utf-8"}
"""What a charset means where browsers read more than its name says."""


class WebRecord(NamedTuple):
    """A record of an archive: its header fields in small letters, and its content."""

    fields: dict[str, str]
    content: bytes


def _damaged(where: str, why: str) -> DataError:
    return DataError(f"{where}: not a whole WARC file: {why}; copy the file or write it again")


def _headers(where: str, file: BinaryIO) -> dict[str, str]:
    """The header fields up to the blank line, their names in small letters."""
    fields: dict[str, str] = {}
    size, last = 0, ""
    while True:
        line = file.readline(MOST_HEADERS)
        size += len(line)
        if not line.endswith(b"\n") or size > MOST_HEADERS:
            raise _damaged(where, "the header of the record has no end")
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            return fields
        name, colon, value = text.partition(":")
        if text[0] in " \t" and last:  # a field that goes on
            fields[last] += " " + text.strip()
        elif colon:
            last = name.strip().lower()
            fields[last] = value.strip()
        else:
            raise _damaged(where, f"{text[:40]!r} is no header field")


def web_records(block: FileBlock, on_bytes: jsonl.OnBytes | None = None) -> Iterator[tuple[int, WebRecord]]:
    """The records of an archive that may hold a page. DataError for a file that is damaged, or ends in a record."""
    path, most = block.path, block.reading.max_bytes
    others: Counter[str] = Counter()
    with packed.reading(path) as (file, counted):
        number = 0
        while line := _after_blank_lines(file):
            number += 1
            where = f"{path}:{number}"
            if not _VERSION.fullmatch(line):
                advice = packed.compression(line) or "its first line is not WARC/1.0"
                raise _damaged(where, advice)
            fields = _headers(where, file)
            size = fields.get("content-length", "")
            if not _NUMBER.fullmatch(size):
                raise _damaged(where, f"Content-Length is {size!r}, needs a number of bytes")
            kind = _kind(fields)
            if not kind and int(size) > most:
                raise packed.too_long(where, most)
            content = _content(where, file, int(size), keep=not kind)
            if on_bytes is not None:
                on_bytes(counted.tell())
            kind = kind or _no_page(fields, content)
            if kind:
                others[kind] += 1
            else:
                yield number, WebRecord(fields, content)
    if others:
        named = ", ".join(f"{kind} {count}" for kind, count in others.most_common(5))
        more = f" and {len(others) - 5} more kinds" if len(others) > 5 else ""
        note(f"{path}: {sum(others.values())} of {number} records are no pages and are not read: {named}{more}")


def _after_blank_lines(file: BinaryIO) -> bytes:
    """The next line that is not blank; nothing at the end of the file."""
    while line := file.readline(MOST_HEADERS):
        if line.strip():
            return line
    return b""


def _content(where: str, file: BinaryIO, size: int, *, keep: bool) -> bytes:
    """The next `size` bytes; not held in memory unless they are kept."""
    held = io.BytesIO()
    left = size
    while left:
        piece = file.read(min(left, 1 << 20))
        if not piece:
            raise _damaged(where, f"it ends {left:,} bytes before the end of this record")
        left -= len(piece)
        if keep:
            held.write(piece)
    return held.getvalue()


def _kind(fields: dict[str, str]) -> str:
    """What a record is, when its header says that it is no page; else nothing."""
    kind = fields.get("warc-type", "").lower()
    if kind not in ("response", "resource", "conversion"):
        return kind[:40] or "without a type"
    if kind == "response" and not fields.get("content-type", "").lower().startswith("application/http"):
        return "response without HTTP"
    media = _media(fields.get("content-type", ""))
    return media if kind != "response" and media not in PAGES else ""


def _no_page(fields: dict[str, str], content: bytes) -> str:
    """What a response is when its own header says that it is no page; else nothing."""
    if fields["warc-type"].lower() != "response":
        return ""
    status = _STATUS.match(content)
    if status is None:
        return "response without HTTP"
    if status[1] != b"200":
        return f"status {status[1].decode()}"
    media = _media(_http(content)[0].get("content-type", ""))
    return "" if media in PAGES else media or "without a media type"


def _media(given: str) -> str:
    return given.partition(";")[0].strip().lower()[:60]


def _http(content: bytes) -> tuple[dict[str, str], bytes]:
    """(header fields, body) of a response of HTTP."""
    head, _, body = content.partition(b"\r\n\r\n")
    if not body and b"\n\n" in content:
        head, _, body = content.partition(b"\n\n")
    lines = head.decode("latin-1").splitlines()[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}, body


def parse_page(where: str, record: WebRecord) -> jsonl.Record:
    """A record of an archive as a document. DataError for a text that cannot be decoded."""
    fields, body = record.fields, record.content
    cut = fields.get("warc-truncated", "") != ""  # the crawler took a part of the page, and says so
    media, charset = _media(fields.get("content-type", "")), _CHARSET.search(fields.get("content-type", ""))
    if fields["warc-type"].lower() == "response":
        http, body = _http(record.content)
        media, charset = _media(http.get("content-type", "")), _CHARSET.search(http.get("content-type", ""))
        if "chunked" in http.get("transfer-encoding", "").lower():
            body = _joined_chunks(body)
        body = _unpacked(where, http.get("content-encoding", "").lower(), body, cut=cut)
    html = media != "text/plain"
    text = _decoded(where, body, _charset(charset[1] if charset else "", body if html else b""), cut=cut)
    document: dict[str, Any] = {"text": html_text(text) if html else text.replace("\r\n", "\n").strip("\n")}
    names = {"id": "warc-record-id", "url": "warc-target-uri", "date": "warc-date"}
    found = {name: fields[field].strip("<>") for name, field in names.items() if fields.get(field)}
    return {**found, **document}


def _joined_chunks(body: bytes) -> bytes:
    """The body of a response that was sent in chunks; the body itself where it was written without their sizes."""
    out: list[bytes] = []
    at = 0
    while (end := body.find(b"\r\n", at)) >= 0:
        size = body[at:end].partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size):
            return body if not out else b"".join(out)
        if not int(size, 16):
            break
        out.append(body[end + 2 : end + 2 + int(size, 16)])
        at = end + 4 + int(size, 16)
    return b"".join(out) if out else body


def _unpacked(where: str, encoding: str, body: bytes, *, cut: bool) -> bytes:
    """The body without its compression, at most RECORD_BYTES of it; of a `cut` one what is there.

    DataError for one that is not read."""
    if encoding in ("", "identity") or (encoding == "gzip" and not body.startswith(b"\x1f\x8b")):
        return body  # some crawlers unpack a body and keep its header
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise DataError(f"{where}: Content-Encoding {encoding[:40]!r} is not read; crawl with gzip, or leave it out")
    for wbits in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):  # some servers send deflate without a header
        with contextlib.suppress(zlib.error):
            unpacker = zlib.decompressobj(wbits)
            out = unpacker.decompress(body, packed.RECORD_BYTES)
            if unpacker.unconsumed_tail:
                raise packed.too_long(where, packed.RECORD_BYTES)
            if cut or unpacker.eof:
                return out
            break
    raise DataError(f"{where}: the page is not whole: its {encoding} data is damaged; leave the record out")


def _charset(header: str, page: bytes) -> str:
    """The charset of a body: of the header, or where it names none that is known, of the page itself."""
    for given in (header, declared_charset(page)):
        with contextlib.suppress(LookupError):
            if given and codecs.lookup(CHARSETS.get(given.lower(), given)):
                return given
    return header


def _decoded(where: str, body: bytes, charset: str, *, cut: bool) -> str:
    """The text of a body. Without a charset it is UTF-8, or else Chinese in GB 18030. A `cut` body may end within a
    character."""
    name = CHARSETS.get(charset.lower(), charset) or "utf-8"
    if body.startswith(jsonl.BOM):
        name = "utf-8-sig"
    try:
        text = _text(body, name, cut)
        text.encode()  # some charsets can name half of a surrogate pair
    except LookupError as error:
        raise DataError(f"{where}: charset {charset[:40]!r} is not known; leave the record out") from error
    except ValueError as error:
        try:
            return _text(body, "utf-8", cut)
        except UnicodeDecodeError:
            if not charset and (chinese := _undeclared_chinese(body, cut)):
                return chinese
            reason = error.reason if isinstance(error, UnicodeError) and hasattr(error, "reason") else "damaged"
            raise DataError(
                f"{where}: the page is not in its charset {name} ({reason}); leave the record out"
            ) from error
    return text


def _undeclared_chinese(body: bytes, cut: bool) -> str:
    """The text of a body that is Chinese in GB 18030, by what its characters are; else nothing.

    Bytes of other charsets may be read so, too, but give rare characters then, and not those of level 1 of GB 2312."""
    try:
        text = _text(body, "gb18030", cut)
    except UnicodeDecodeError:
        return ""
    wide = [char.encode("gb18030") for char in text if ord(char) >= 0x80]
    common = sum(len(code) == 2 and (0xB0 <= code[0] <= 0xD7 or 0xA1 <= code[0] <= 0xA3) for code in wide)
    return text if common >= max(LEAST_CHINESE, COMMON_SHARE * len(wide)) else ""


def _text(body: bytes, name: str, cut: bool) -> str:
    if not cut:
        return body.decode(name)
    "".encode(name)  # refuses codecs that are no charset, as bytes.decode does
    return codecs.getincrementaldecoder(name)().decode(body)
