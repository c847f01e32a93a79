"""A reward model that was not trained here: what it lacks is told, and calibration adds it."""

from types import SimpleNamespace

import pytest

from tigerjax.align import score
from tigerjax.align.calibration import check, scale
from tigerjax.errors import ConfigError

SCALE = {"mean": 0.5, "std": 2.0}


@pytest.mark.parametrize("extra", [{}, {"calibration": SCALE}, {"truncation_penalty": 2.0}, {"calibration": [1, 2]}])
def test_an_imported_reward_model_that_is_not_calibrated_is_told_how(extra):
    with pytest.raises(ConfigError, match="not calibrated; run `tigerjax reward calibrate CONFIG"):
        scale(extra)


@pytest.mark.parametrize(
    ("calibration", "penalty"),
    [
        (SCALE | {"std": 0.0}, 2.0),
        (SCALE | {"std": -1.0}, 2.0),
        (SCALE | {"mean": float("nan")}, 2.0),
        (SCALE | {"std": "2"}, 2.0),
        (SCALE | {"mean": True}, 2.0),
        ({"mean": 0.5}, 2.0),
        (SCALE, None),
        (SCALE, -1),
        (SCALE, float("inf")),
    ],
)
def test_a_calibration_with_numbers_that_cannot_be_is_refused(calibration, penalty):
    with pytest.raises(ConfigError, match="needs numbers, a std above 0"):
        scale({"calibration": calibration, "truncation_penalty": penalty})


@pytest.mark.parametrize(
    ("before", "after"), [({}, 1.5), ({"truncation_penalty": 3.0}, 3.0), ({"truncation_penalty": "x"}, 1.5)]
)
def test_calibration_gives_an_import_the_penalty_that_ranking_needs(tmp_path, monkeypatch, before, after):
    (tmp_path / "meta.json").write_text("{}")
    kept = []
    imported = SimpleNamespace(extra=before | {"source": "hf"}, tokenizer=None)
    monkeypatch.setattr(score, "Tokenizer", lambda path: None)
    monkeypatch.setattr(score, "load", lambda *a, **k: imported)
    monkeypatch.setattr(score, "Scorer", lambda *a, **k: None)
    monkeypatch.setattr(score, "calibrate", lambda *a: SCALE)
    monkeypatch.setattr(score, "sft_examples", lambda files: [])
    monkeypatch.setattr(score, "amend", lambda place, extra: kept.append(extra))
    config = SimpleNamespace(data=SimpleNamespace(tokenizer="tok", seq_len=8, max_dropped=0.0), compute=None)
    score.calibrate_model(config, tmp_path, [], rows=4, truncation_penalty=1.5)
    assert kept == [{"source": "hf", "calibration": SCALE, "truncation_penalty": after}]
    assert scale(kept[0]) == (0.5, 2.0, after)


def test_the_run_of_a_reward_model_names_the_calibrated_folder_in_it(tmp_path):
    check({"calibration": SCALE, "truncation_penalty": 2.0}, tmp_path)
    with pytest.raises(ConfigError, match=f"{tmp_path}: .* not calibrated; run .* --model {tmp_path} "):
        check({}, tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "meta.json").touch()
    with pytest.raises(ConfigError, match=f"not calibrated; give {tmp_path}/model, which `tigerjax reward train`"):
        check({}, tmp_path)
