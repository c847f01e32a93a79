"""Examples that are in no row: one line with counts, and a limit that stops."""

import pytest

from tigerjax.command import cli
from tigerjax.config import DataConfig
from tigerjax.data import dropped, mixture
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl

FIGURES = {"records": 100, "overlong": 57, "weightless": 2, "seq_len": 64, "trimmed": 3, "numbered": 4, "shortened": 0}


def test_what_is_dropped_or_changed_is_said_with_its_counts(capsys):
    dropped.tell("sft", FIGURES, 0.6)
    trimmed, numbered, lost = capsys.readouterr().err.splitlines()
    assert "source sft: 3 dialogues" in trimmed and "source sft: 4 records" in numbered
    assert "source sft: 59 of 100 examples (59%) are in no row: 57 are longer than seq_len=64, 2 have no answer" in lost
    assert "raise data.seq_len" in lost and "keep_left_turns" in lost


def test_more_than_the_limit_is_an_error_that_names_the_option():
    with pytest.raises(DataError, match=r"59 of 100 examples .* at most 50% may be: .*--data\.max-dropped"):
        dropped.tell("sft", FIGURES, 0.5)


def test_nothing_is_said_where_nothing_is_dropped(capsys):
    dropped.tell("sft", {"records": 100, "overlong": 0, "weightless": 0, "seq_len": 64}, 0.0)
    dropped.tell("a task of one's own", {"rows": 3, "tokens": 9}, 0.0)
    assert capsys.readouterr().err == ""


def test_examples_that_were_cut_are_counted(capsys):
    dropped.tell("sft", FIGURES | {"overlong": 0, "weightless": 0, "trimmed": 0, "numbered": 0, "shortened": 9}, 0.0)
    assert "9 of 100 examples are longer than seq_len=64 and were cut to it" in capsys.readouterr().err


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_the_limit_is_a_share(share):
    with pytest.raises(ConfigError, match=r"data\.max_dropped=.* must be at least 0 and at most 1"):
        DataConfig(mixture="m", modules=(), tokenizer="t", cache_dir="c", seq_len=8, max_dropped=share)


def test_a_command_says_what_is_in_no_row_and_stops_at_the_limit(work, tmp_path, capsys):
    """Of three examples one is longer than a row."""
    examples = [
        {"id": name, "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]}
        for name, text in (("a", "yes"), ("b", "no"), ("c", "apples and pears " * 40))
    ]
    jsonl.write_jsonl(tmp_path / "sft.jsonl", examples)
    mixture.sft(
        "some_overlong", tokenizer=str(work / "tokenizer"), examples=mixture.Source(str(tmp_path / "sft.jsonl"))
    )
    words = ["data", "stats", "some_overlong", "--seq-len", "48", "--modules", "json"]
    words += ["--cache-dir", str(tmp_path / "rows")]
    assert cli.main([*words, "--max-dropped", "0.4"]) == 0
    assert "1 of 3 examples (33%) are in no row: 1 are longer than seq_len=48" in capsys.readouterr().err
    for _ in range(2):  # with the rows made anew, and with those that are kept
        assert cli.main([*words, "--max-dropped", "0.3"]) == 3
        error = capsys.readouterr().err
        assert "at most 30% may be" in error and "--data.max-dropped" in error and "Traceback" not in error
