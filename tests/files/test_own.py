"""Files of our own that are damaged: manifests, logs and values in them are refused in one line with the file."""

import contextlib
import errno
import json
import os

import pytest

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import log, manifest, own

MADE = {
    "stage": "clean",
    "inputs": [{"path": "a", "sha256": "0"}],
    "outputs": [{"path": "b", "bytes": 1, "sha256": "0"}],
}
WRONG = [
    "", "[]", "null", "7", '"a"', "[" * 100_000, '{"a":', '{"a": "\\ud800"}', '{"a": ' + "9" * 5000 + "}",
    *(json.dumps(MADE | change) for change in (
        {"stage": 7}, {"inputs": "a"}, {"inputs": {"path": "a"}}, {"inputs": [7]}, {"inputs": [{"path": 7}]},
        {"inputs": [{"sha256": "0"}]}, {"outputs": None}, {"outputs": [{"path": "b", "bytes": "1"}]},
        {"outputs": [{"path": "b", "bytes": 1, "sha256": 0}]}, {"counts": []}, {"counts": 3}, {"figures": "x"},
    )),
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_manifest_of_another_form_is_one_line_with_its_file(tmp_path, text):
    (tmp_path / manifest.FILE).write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json.*; remove the folder and make it again") as error:
        manifest.read(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_manifest_may_lack_any_part_and_hold_others(tmp_path):
    for made in ({}, MADE, {"key": "k", "config": ["a = 1"], "figures": {"loss": 1.0}}):
        (tmp_path / manifest.FILE).write_text(json.dumps(made))
        assert manifest.read(tmp_path) == made


def test_a_log_leaves_out_a_last_line_that_was_cut_and_names_any_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert log.records(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert log.records(path) == [{"step": 1}, {"step": 2}]
    for bad in (b"[1]\n", b"\xff\n", b"[" * 9999 + b"\n", b"\n"):
        path.write_bytes(b'{"step": 1}\n' + bad + b'{"step": 2}\n')
        with pytest.raises(DataError, match=r"metrics\.jsonl:2: .*; remove the line"):
            log.records(path)


@pytest.mark.parametrize("rest", ["", "{}\n", '{"step": 3'])
def test_a_log_begun_anew_keeps_its_lines_where_nothing_can_be_written(tmp_path, monkeypatch, rest):
    """A full disk: the lines that stay are cut out of the file as it is, and never written again."""
    path, lines = tmp_path / "metrics.jsonl", [f'{{"step": {n}}}' for n in range(1000)]
    whole = "".join(f"{line}\n" for line in lines)
    path.write_text(whole + rest)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(log.paths, "write_text", full)
    log.Log(path, lines).close()
    assert path.read_text() == whole
    with pytest.raises(OSError):
        log.Log(path, [*lines[:500], *lines[501:]])
    assert path.read_text() == whole
    monkeypatch.undo()
    with contextlib.closing(log.Log(path, [*lines[:1], *lines[2:]])) as begun:
        begun.write("{}")
    assert path.read_text() == "".join(f"{line}\n" for line in [*lines[:1], *lines[2:], "{}"])


def test_a_value_of_another_type_is_one_line_and_our_own_errors_stay(tmp_path):
    for take in (lambda: {}["a"], lambda: [][0], lambda: None + 1, lambda: int("x"), lambda: 1 / 0, lambda: (7).a):
        with pytest.raises(DataError, match=r"x\.json: not as it was written \(.*\); make it again"):
            with own.fields(tmp_path / "x.json", "make it again"):
                take()
    with pytest.raises(ConfigError, match="mine"), own.fields(tmp_path, "make it again"):
        raise ConfigError("mine")
    with pytest.raises(AssertionError), own.fields(tmp_path, "make it again"):
        raise AssertionError


def test_one_changed_byte_of_a_manifest_is_found(tmp_path):
    made = MADE | {"counts": {"in": 3, "out": 2}, "figures": {"rows": 123, "name": "虎"}}
    manifest.write(tmp_path, made)
    assert manifest.read(tmp_path) == made
    good = (tmp_path / manifest.FILE).read_bytes()
    for at in range(len(good)):
        for bit in (0, 2, 6):
            (tmp_path / manifest.FILE).write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
            with pytest.raises(DataError, match=r"manifest\.json"):
                manifest.read(tmp_path)
    (tmp_path / manifest.FILE).write_text(json.dumps(made))  # of an older version
    assert manifest.read(tmp_path) == made
