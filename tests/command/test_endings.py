"""How a command ends when the system fails it, or when what it has to say is as long as a book."""

import errno
import os

import pytest

from tigerjax.command.cli import main
from tigerjax.terminal import in_short


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EIO, "the disk or its server failed: look at it, and repeat; what was finished is whole"),
        (errno.ESTALE, "the disk or its server failed"),
        (errno.EMFILE, "raise the number of files that may be open"),
        (errno.EACCES, "change the path or its permissions"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_an_error_of_the_disk_is_one_line_with_what_to_do(monkeypatch, tmp_path, capsys, number, advice, named):
    def fail(*_args, **_options):
        raise OSError(number, os.strerror(number), *(["/data/x.jsonl"] if named else []))

    monkeypatch.setattr("tigerjax.text.clean.clean_files", fail)
    assert main(["data", "clean", "--input", "a.jsonl", "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"tigerjax: {'/data/x.jsonl' if named else 'the output'}: {os.strerror(number)}; {advice}")
    assert said.count("\n") == 1


def test_a_folder_that_no_system_lets_be_made_is_one_line(monkeypatch, tmp_path, capsys):
    """As in /proc, whose owner may write to it, but where nothing can be made."""

    def fail(*_args, **_options):
        (tmp_path / "absent" / "folder").mkdir()

    monkeypatch.setattr("tigerjax.text.clean.clean_files", fail)
    assert main(["data", "clean", "--input", "a.jsonl", "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert said == f"tigerjax: {tmp_path / 'absent' / 'folder'}: this folder cannot be made; give another path\n"


def test_a_line_that_quotes_a_long_value_keeps_its_begin_and_its_advice(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "", "id": "' + "x" * 50_000 + '"}\n')
    assert main(["data", "dedup", "exact", "--input", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert "a.jsonl:1: id 'xxx" in said and said.endswith("remove the record\n") and len(said) < 2000
    assert in_short("short\nlines") == "short\nlines"
