"""Web archives: pages become documents, all other records are counted, and damage is one line."""

import gzip
import zlib

import pytest
from file_formats import save_warc, warc_record
from linear import assert_linear

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import jsonl
from tigerjax.records.html_text import html_text
from tigerjax.text.clean import clean_files

PAGE = (
    "<html><head><title>no</title><meta charset='gb2312'></head><body><script>if (a<b) x()</script>"
    "<h1>老虎</h1><p>The <b>tiger</b> walks &amp;\n sleeps. 1 &lt; 2, a < b</p><!-- no <p> -->"
    "<table><tr><td>1</td><td>2</td></tr></table><STYLE>p {}</style>end</body></html>"
)
TEXT = "老虎\n\nThe tiger walks & sleeps. 1 < 2, a < b\n\n1 2\n\nend"


def http(body, media="text/html; charset=gb2312", status=200, more=""):
    return f"HTTP/1.1 {status} X\r\nContent-Type: {media}\r\n{more}\r\n".encode() + body


def response(number, content):
    return warc_record("response", content, number, "application/http; msgtype=response")


def test_a_page_is_the_text_that_a_reader_sees():
    assert html_text(PAGE) == TEXT
    assert html_text("<svg>never ends <p>a") == "never ends\n\na"
    assert html_text("a<script>cut = ") == html_text("<p>a<br") == html_text("a<div class='") == "a"
    assert html_text("<a title='1 > 0' id=\"it's > 2\">b</a> c") == "b c"


def test_the_blanks_and_newlines_of_code_stay():
    code = "def f(x):\n    return  x &lt; 1\n\n\n\n    # end\n"
    shown = "def f(x):\n    return  x < 1\n\n\n\n    # end"
    assert html_text(f"<p>a  b<pre>{code}</pre>c  d") == f"a b\n\n{shown}\n\nc d"
    assert html_text("<pre><code>  <b>x</b>\r\n    y</code></pre>") == "  x\n    y"


def test_other_tags_and_signs():
    assert html_text("İ" * 9 + "<script>x</SCRIPT>y") == "İ" * 9 + "\ny"


@pytest.mark.parametrize(
    "piece",
    ["<b", "<script>", "<", "<!--", "<!--->", "&amp", "< p", "<p a='", "<p a='>", "<pre>", '<p a="\'>"', "</", " \n"],
)
def test_a_page_is_read_in_linear_time(piece):
    assert_linear(lambda n: html_text(piece * 20 * n), 4000)


def test_pages_of_an_archive_are_documents_and_other_records_are_counted(tmp_path, capsys):
    chunked = b"4\r\n<p>a\r\n6;x=1\r\nb</p>\n\r\n0\r\n\r\n"
    content = [
        warc_record("warcinfo", b"software: x", 0, "application/warc-fields"),
        response(1, http(PAGE.encode("gb18030"))),
        warc_record("request", b"GET / HTTP/1.1", 2, "application/http; msgtype=request"),
        response(3, http(b"\x89PNG", "image/png")),
        response(4, http(b"gone", status=404)),
        response(5, http(chunked, "text/html", more="Transfer-Encoding: chunked\r\n")),
        response(6, http(gzip.compress("<p>中文".encode()), "text/html", more="Content-Encoding: gzip\r\n")),
        warc_record("resource", b"one\r\ntwo\r\n", 7, "text/plain"),
    ]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, content)))
    read = list(records.read(tmp_path / "a.warc.gz"))
    assert [(number, record["text"]) for number, record in read] == [
        (2, TEXT),
        (6, "ab"),
        (7, "中文"),
        (8, "one\ntwo"),
    ]
    assert read[0][1] == {
        "id": "urn:uuid:1",
        "url": "https://tiger.org/1",
        "date": "2026-05-04T00:00:00Z",
        "text": TEXT,
    }
    err = capsys.readouterr().err
    assert "4 of 8 records are no pages and are not read" in err and "image/png 1" in err and "status 404 1" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda made: made[:-12], "it ends .* bytes before the end of this record"),
        (lambda made: made[:40], "the header of the record has no end"),
        (lambda made: made.replace(b"Content-Length: ", b"Content-Length: -"), "Content-Length is '-"),
        (lambda made: b"{}\n" + made, "its first line is not WARC/1.0"),
        (lambda made: made.replace(b"WARC-Date", b"\n\nx", 1), "not a whole WARC file"),
        (lambda made: gzip.compress(made), "compressed by gzip: give its name the ending .gz"),
        (lambda made: b"WARC/1.0\r\n" + b"a: b\r\n" * 20_000, "the header of the record has no end"),
    ],
)
def test_a_damaged_archive_is_one_line(tmp_path, content, message):
    save_warc(tmp_path / "whole.wet")
    (tmp_path / "a.wet").write_bytes(content((tmp_path / "whole.wet").read_bytes()))
    with pytest.raises(DataError, match=message):
        list(records.read(tmp_path / "a.wet"))


def test_a_page_of_more_bytes_than_a_record_may_have_is_refused_and_no_page_is_not_held(tmp_path):
    big = b"x" * 2_000_000
    (tmp_path / "a.warc").write_bytes(
        warc_record("metadata", big, 0, "x/y") + warc_record("resource", big, 1, "text/plain")
    )
    with pytest.raises(DataError, match=r"a\.warc:2: this record has more than 1,000,000 bytes"):
        list(records.read(tmp_path / "a.warc", reading=records.Reading(max_bytes=1_000_000)))
    bomb = http(gzip.compress(bytes(200_000_000), 9), "text/html", more="Content-Encoding: gzip\r\n")
    (tmp_path / "b.warc").write_bytes(response(1, bomb))
    with pytest.raises(DataError, match="more than 100,000,000 bytes"):
        list(records.read(tmp_path / "b.warc"))


def test_a_page_that_the_crawler_cut_is_read_as_far_as_it_goes_and_another_cut_one_is_bad(tmp_path):
    page = "<p>中文" + "老虎" * 300 + "</p>"
    said = b"WARC-Truncated: length\r\nContent-Length"
    packed = http(gzip.compress(page.encode())[:-10], "text/html", more="Content-Encoding: gzip\r\n")
    raw = zlib.compressobj(wbits=-15)
    deflated = http(raw.compress(b"<p>deflated") + raw.flush(), "text/html", more="Content-Encoding: deflate\r\n")
    content = [
        response(1, http("<p>中文".encode()[:-1], "text/html; charset=utf-8")).replace(b"Content-Length", said, 1),
        response(2, packed).replace(b"Content-Length", said, 1),
        response(3, packed),
        response(4, http("<meta charset=gbk><p>中文".encode("gbk"), "text/html; charset=none")),
        response(5, deflated),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(content))
    made = clean_files([tmp_path / "a.warc"], tmp_path / "out", max_bad_fraction=1)
    texts = [record["text"] for _, record in jsonl.read_jsonl(tmp_path / "out" / "a.jsonl")]
    assert texts[0] == "中" and texts[1].startswith("中文老虎") and texts[2:] == ["中文", "deflated"]
    assert made["counts"]["dropped"] == {"bad": 1}


def test_a_page_without_a_charset_is_chinese_where_its_characters_are_common_ones(tmp_path):
    chinese = "<p>老虎生活在森林里，夜里出来寻找食物。</p>"
    latin = "<p>Ces élèves étaient très âgés, où sont-ils allés déjà, à la forêt?</p>"
    content = [
        response(1, http(chinese.encode("gbk"), "text/html")),
        response(2, http(chinese.encode("gb18030"), "text/plain")),
        response(3, http(latin.encode("latin-1"), "text/html")),
        response(4, http(chinese.encode("big5", "ignore"), "text/html")),
        response(5, http(chinese.encode("gbk"), "text/html; charset=utf-8")),  # it says something else
        response(6, http(chinese.encode(), "text/html")),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(content))
    made = clean_files([tmp_path / "a.warc"], tmp_path / "out", max_bad_fraction=1)
    texts = [record["text"] for _, record in jsonl.read_jsonl(tmp_path / "out" / "a.jsonl")]
    assert texts == ["老虎生活在森林里，夜里出来寻找食物。"] * 3
    assert made["counts"]["dropped"] == {"bad": 3}


def test_pages_that_cannot_be_decoded_go_to_quarantine(tmp_path):
    good = [response(n, http(b"<p>ok</p>", "text/html")) for n in range(3)]
    bad = [
        response(7, http(b"\xff\xff", "text/html; charset=utf-8")),
        response(8, http(b"a", "text/html; charset=klingon")),
        response(9, http(b"a", "text/html; charset=hex")),
        response(10, http(b"a", "text/html", more="Content-Encoding: br\r\n")),
        response(11, http(b"\x1f\x8bno", "text/html", more="Content-Encoding: gzip\r\n")),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(good + bad))
    made = clean_files([tmp_path / "a.warc"], tmp_path / "out", max_bad_fraction=1)
    assert made["counts"] == {"in": 8, "out": 3, "dropped": {"bad": 5}}
    assert [record["text"] for _, record in jsonl.read_jsonl(tmp_path / "out" / "a.jsonl")] == ["ok"] * 3
    told = (tmp_path / "out" / "quarantine.json").read_text()
    assert all(word in told for word in ("charset utf-8", "klingon", "hex", "'br' is not read", "gzip data is damaged"))
