"""Lines that the pages of a site share go; the same lines on few pages, or on other sites, stay."""

import pytest
from file_formats import warc_record

from tigerjax.errors import ConfigError
from tigerjax.files import jsonl
from tigerjax.records import block
from tigerjax.stages.runner import Runner
from tigerjax.text.site_lines import site_line_files, site_of

MENU, FOOT = "Home | News | About", "© 2020 Tiger"


@pytest.fixture
def pages(tmp_path):
    made = [
        {"id": f"t{n}", "url": f"https://www.tiger.org/{n}", "text": f"{MENU}\nPage {n} of it.\n\nMore.\n{FOOT}"}
        for n in range(12)
    ]
    made[3]["text"] += "\nOnly on two."
    made[4]["text"] += "\nOnly on two."
    made += [{"id": "menu", "meta": {"url": "http://tiger.org/x"}, "text": f"{MENU}\n{FOOT}\n"}]
    made += [{"id": f"o{n}", "url": f"https://other.org/{n}", "text": f"{MENU}\nOther {n}."} for n in range(3)]
    made += [{"id": f"c{n}", "url": "https://tiger.org/c", "text": MENU, "lang": "code"} for n in range(9)]
    made += [{"id": "none", "text": MENU}, {"id": "odd", "url": "http://[", "text": MENU}]
    jsonl.write_jsonl(tmp_path / "docs.jsonl", made)
    return tmp_path / "docs.jsonl"


def read(folder):
    return {record["id"]: record["text"] for _, record in jsonl.read_jsonl(folder / "docs.jsonl")}


def test_lines_of_many_pages_of_a_site_go_and_all_others_stay(pages, tmp_path):
    made = site_line_files([pages], tmp_path / "out", share=0.2)
    got, given = read(tmp_path / "out"), read(pages.parent)
    assert got["t0"] == "Page 0 of it."
    assert "Only on two." in got["t3"] and MENU not in got["t3"] and FOOT not in got["t3"]
    assert all(got[name] == given[name] for name in ("o0", "o1", "o2", "c0", "none", "odd")) and "menu" not in got
    assert made["counts"] == {"in": 27, "out": 26, "dropped": {"site_lines": 1}}
    assert made["figures"]["without_site"] == 11 and made["figures"]["lines"] == 13 * 2 + 12
    again = site_line_files([tmp_path / "out"], tmp_path / "again", share=0.2)
    assert again["figures"]["lines"] == 0 and read(tmp_path / "again") == got


def test_the_division_of_the_work_changes_no_byte(pages, tmp_path, monkeypatch):
    site_line_files([pages], tmp_path / "one")
    monkeypatch.setattr(block, "BLOCK_BYTES", 300)
    site_line_files([pages], tmp_path / "two", shards=3, runner=Runner(workers=2))
    assert (tmp_path / "one" / "docs.jsonl").read_bytes() == (tmp_path / "two" / "docs.jsonl").read_bytes()


def test_pages_of_an_archive_that_cannot_be_decoded_are_left_out_and_counted(tmp_path, capsys):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    bodies = [f"<p>{MENU}<p>Page {n}".encode() for n in range(6)] + [b"\xff\xfe\xff" * 5, b"\xff"]
    media = "application/http; msgtype=response"
    made = [warc_record("response", head + body, n, media) for n, body in enumerate(bodies)]
    (tmp_path / "crawl.warc").write_bytes(b"".join(made))
    found = site_line_files([tmp_path / "crawl.warc"], tmp_path / "out")
    assert found["counts"]["in"] == found["counts"]["out"] == 6 and found["figures"]["damaged_pages"] == 2
    texts = [record["text"] for _, record in jsonl.read_jsonl(tmp_path / "out" / "crawl.jsonl")]
    assert texts == [f"Page {n}" for n in range(6)]
    assert "2 pages of web archives cannot be decoded, and are left out" in capsys.readouterr().err


def test_a_site_is_the_host_of_an_address():
    assert site_of({"url": "https://www.Tiger.org:80/a?b"}) == "tiger.org"
    assert site_of({"url": 5}) == site_of({"meta": "x"}) == site_of({"url": "tiger"}) == ""


def test_thresholds_that_make_no_sense_are_refused(pages, tmp_path):
    for wrong in ({"pages": 1}, {"share": 2}):
        with pytest.raises(ConfigError, match="must be at least 2, and share"):
            site_line_files([pages], tmp_path / "out", **wrong)
