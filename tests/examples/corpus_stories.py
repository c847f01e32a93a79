"""The examples of commands that look at a whole corpus, in the world that the story of texts leaves behind."""

import gzip
from pathlib import Path

import file_formats
from stories import Line


def crawl() -> None:
    """A web archive."""
    file_formats.save_warc(Path("crawl.warc.wet"))
    Path("crawl.warc.wet.gz").write_bytes(gzip.compress(Path("crawl.warc.wet").read_bytes()))


CORPUS = [
    Line("tigerjax data language --input zh.jsonl en.jsonl --out runs/language"),
    Line("tigerjax data quality train --good zh_books.jsonl --bad zh.jsonl --out runs/quality"),
    Line("tigerjax data quality score --input runs/clean/zh.jsonl --model runs/quality --out runs/scored"),
    Line("tigerjax data dedup soft --input runs/clean/zh.jsonl runs/clean/en.jsonl --out runs/soft"),
    Line("tigerjax data dedup substrings --input runs/clean/zh.jsonl runs/clean/en.jsonl --out runs/substrings"),
    Line("tigerjax data dedup site-lines --input crawl.warc.wet.gz --out runs/site_lines", before=crawl),
]
