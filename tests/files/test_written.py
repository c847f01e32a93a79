"""What this stack writes is JSON: a figure that is not finite is null. A field that is given twice is an error."""

import json

import pytest

from tigerjax.errors import DataError
from tigerjax.files import foreign, jsonl, manifest, own

NAN, INF = float("nan"), float("inf")


def strict(text):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_figures_that_are_not_finite_become_null(tmp_path):
    figures = {"loss": NAN, "deep": [{"a": (INF, 1.5)}, -INF], "n": 10**400, "name": "NaN"}
    clean = {"loss": None, "deep": [{"a": [None, 1.5]}, None], "n": 10**400, "name": "NaN"}
    manifest.write_json(tmp_path / "a.json", figures)
    assert strict((tmp_path / "a.json").read_text()) == clean
    manifest.write(tmp_path, {"stage": "x", "figures": figures})
    made = manifest.read(tmp_path)
    assert made is not None and made["figures"] == clean and strict((tmp_path / manifest.FILE).read_text())


def test_a_record_that_is_not_finite_is_never_written():
    with pytest.raises(ValueError, match="Out of range float"):
        jsonl.dumped({"score": NAN})


def test_figures_of_older_versions_are_read_with_their_nan(tmp_path):
    (tmp_path / "old.json").write_text('{"loss": NaN}')
    assert own.read_object(tmp_path / "old.json", "write it again")["loss"] != 0
    with pytest.raises(DataError, match=r"old\.json: NaN is no number of JSON; mend it"):
        foreign.read_object(tmp_path / "old.json", "mend it")


@pytest.mark.parametrize("read", [foreign.read_object, own.read_object])
def test_a_field_that_is_given_twice_is_refused_in_every_file(tmp_path, read):
    (tmp_path / "a.json").write_text('{"sizes": {"n": 1, "m": 2, "n": 3}}')
    with pytest.raises(DataError, match=r"a\.json: field 'n' is given twice; mend it"):
        read(tmp_path / "a.json", "mend it")
