"""Denied sources are whole names; a source that only begins like one is none, and one that is allowed stays."""

import pytest

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import jsonl
from tigerjax.text.clean import clean_files
from tigerjax.text.dedup import dedup_files

TEXT = "Threads about computer controlled combat, kept for history."


@pytest.mark.parametrize(
    ("source", "denied"),
    [
        *((s, True) for s in ("c4", "C4/en", "c4_en", "c4-en.noclean", "allenai/c4", "data/c4/en", "commoncrawl")),
        *((s, True) for s in ("CommonCrawl-2023", "Common Crawl", "common_crawl/2019", "c4:en")),
        *(
            (s, False)
            for s in ("c4isr_forum", "c4论坛", "mc4u", "commoncrawler_fans", "etc4", "uncommoncrawl", "", None)
        ),
    ],
)
def test_a_source_is_denied_by_a_whole_name(source, denied):
    assert records.denied({"text": TEXT, "source": source}) == denied


def test_an_allowed_source_passes_all_stages_and_is_counted(tmp_path):
    given = [{"id": "1", "text": TEXT, "source": "c4_forum"}, {"id": "2", "text": TEXT[:30], "source": "c4"}]
    jsonl.write_jsonl(tmp_path / "x.jsonl", given[:1])
    with pytest.raises(DataError, match=r"x\.jsonl:1: id '1': source 'c4_forum' is denied.*--allow-source 'c4_forum'"):
        clean_files([tmp_path / "x.jsonl"], tmp_path / "out")
    made = clean_files([tmp_path / "x.jsonl"], tmp_path / "out", allow_source=["c4_forum", "c4_other"])
    assert made["counts"]["out"] == 1 and made["figures"]["allowed"] == {"c4_forum": 1, "c4_other": 0}
    assert dedup_files("exact", [tmp_path / "out" / "x.jsonl"], tmp_path / "exact")["counts"]["out"] == 1
    assert [d["source"] for d in records.documents(tmp_path / "exact" / "x.jsonl")] == ["c4_forum"]
    jsonl.write_jsonl(tmp_path / "x.jsonl", given)
    with pytest.raises(DataError, match=r"x\.jsonl:2: id '2': source 'c4' is denied"):
        clean_files([tmp_path / "x.jsonl"], tmp_path / "again", allow_source=["c4_forum"])
