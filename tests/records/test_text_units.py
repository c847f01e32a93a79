"""What of a plain text file is a document: a line, a paragraph or the whole file."""

import gzip

import pytest

from tigerjax import records
from tigerjax.command import cli
from tigerjax.data import tasks
from tigerjax.errors import DataError
from tigerjax.files.jsonl import read_jsonl

TEXT = "\ufeffTitle\r\nOne.\r\n\r\n \r\nTwo.\nThree.\n\n"
EXPECTED = {
    "line": [(1, "Title"), (2, "One."), (5, "Two."), (6, "Three.")],
    "paragraph": [(1, "Title\nOne."), (5, "Two.\nThree.")],
    "file": [(1, "Title\nOne.\n\n \nTwo.\nThree.")],
}


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "README"])
@pytest.mark.parametrize("unit", EXPECTED)
def test_a_text_file_holds_lines_paragraphs_or_one_document(tmp_path, name, unit):
    data = TEXT.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    files = records.Files([tmp_path / name], records.Reading(text_unit=unit))
    found = [(n, record["text"]) for block in records.blocks(files) for n, record, _ in records.read_block(block)]
    assert found == EXPECTED[unit]
    given = records.Inputs(files, reading=files.reading)
    assert [record["text"] for record in records.documents(given)] == [text for _, text in EXPECTED[unit]]


def test_a_paragraph_or_file_longer_than_the_limit_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("short\n\n" + "a line\n" * 200)
    for unit, line in (("paragraph", 3), ("file", 1)):
        reading = records.Reading(text_unit=unit, max_bytes=1000)
        with pytest.raises(DataError, match=f"a.txt:{line}: this record has more than 1,000 bytes"):
            list(records.read(tmp_path / "a.txt", reading=reading))


def test_the_text_unit_is_part_of_what_a_finished_stage_was_made_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("One line.\nAnother line.\n\nA paragraph.\n")
    for unit, count in (("line", 3), ("paragraph", 2), ("file", 1)):
        assert cli.main(["data", "clean", "--input", "a.txt", "--out", "out", "--text-unit", unit]) == 0
        assert len(list(read_jsonl("out/a.jsonl"))) == count


def test_a_source_of_a_mixture_has_a_text_unit(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(tasks, "_add_task", lambda name, maker: made.append(maker))
    (tmp_path / "a.txt").write_text("One.\nTwo.\n\nThree.\n")
    for unit in ("line", "paragraph", "file"):
        tasks.add_documents_task("x", tasks.Source(tmp_path / "a.txt", text_unit=unit), tokenizer="tok")
    assert [len(list(maker.read())) for maker in made] == [3, 2, 1]
