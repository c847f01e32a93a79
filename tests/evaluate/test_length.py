"""Loss by position and hidden numbers in long rows, beside an independent Llama."""

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from test_loglikelihood import EXACT, independent
from tiny import loaded
from tiny_model import CONFIG, ByteTokenizer

from tigerjax.config import RopeConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.evaluate import length, length_page
from tigerjax.evaluate.answerer import Answerer
from tigerjax.evaluate.length import LengthConfig, Texts
from tigerjax.evaluate.loglikelihood import LogLikelihoods
from tigerjax.evaluate.needles import DEPTHS, WORDINGS, needles, sentences

TOKENIZER = ByteTokenizer()
HOW = LengthConfig(trained=120, times=(1, 2), ropes=(), factor=2.0, rows=3, needles=1)
HAY = sentences(TOKENIZER, ["Rain fell. The road was long! Nobody came?\nA bell rang", "Snow lay."])


def test_the_loss_of_a_bin_of_positions_is_that_of_an_independent_llama():
    rows = np.random.default_rng(2).integers(3, CONFIG.vocab_size, (3, 24)).tolist()
    found = Answerer(loaded(), context=24, rows=2).by_position(rows, 6)
    cuts = [1, 6, 12, 18, 24]
    for row, sums in zip(rows, found, strict=True):
        upto = [0.0, *(-logprob for logprob, _ in independent([(row[:end], 1) for end in cuts[1:]]))]
        np.testing.assert_allclose(sums, np.diff(upto), atol=EXACT)


def test_a_result_by_position_is_computed_once(tmp_path, monkeypatch):
    rows = [[5, 6, 7, 8]]
    first = Answerer(loaded(), context=4, rows=1, cache=tmp_path / "cache.jsonl").by_position(rows, 2)
    monkeypatch.setattr(LogLikelihoods, "each", lambda self, rows: iter(()) if not rows else 1 / 0)
    assert Answerer(loaded(), context=4, rows=1, cache=tmp_path / "cache.jsonl").by_position(rows, 2) == first


@pytest.mark.parametrize("lang", WORDINGS)
@pytest.mark.parametrize("size", [150, 601])
def test_a_number_stands_at_its_depth_of_a_row_of_exactly_the_length_and_is_asked_at_the_end(lang, size):
    made = list(needles(TOKENIZER, lang, HAY, length=size, count=2))
    assert [one.depth for one in made] == [depth for depth in DEPTHS for _ in range(2)]
    for one in made:
        assert len(one.ids) == size
        number, text = TOKENIZER.decode(one.ids[one.first :]).strip(), TOKENIZER.decode(one.ids)
        assert len(number) == 4 and text.count(number) == 2 and text.endswith(number)
        place = len(TOKENIZER.encode(text[: text.index(number)])) / size
        assert abs(place - one.depth * (1 - 90 / size)) < 90 / size, (place, one.depth)


def test_the_questions_are_the_same_at_every_length():
    short, long = (list(needles(TOKENIZER, "en", HAY, length=n, count=2)) for n in (150, 600))
    assert [TOKENIZER.decode(a.ids[-40:]) for a in short] == [TOKENIZER.decode(b.ids[-40:]) for b in long]
    with pytest.raises(DataError, match="has no room for a number and its question"):
        list(needles(TOKENIZER, "en", HAY, length=60, count=1))


def test_sentences_lose_no_character():
    text = "一。二！ A b.c\n\n\nlast"
    assert b"".join(bytes(i - 3 for i in ids) for ids in sentences(TOKENIZER, [text])).decode() == text


def test_rows_of_all_lengths_end_at_the_same_tokens_and_a_rope_is_another_model(tmp_path):
    rows = np.random.default_rng(3).integers(3, CONFIG.vocab_size, (2, 240)).tolist()
    model = loaded()
    found = length.measure(model, {"en": Texts(rows, HAY)}, HOW, batch_rows=2, cache=tmp_path / "cache.jsonl")
    at = {one["times"]: one for one in found["ropes"]["default"]["en"]["lengths"]}
    sums = [-logprob for logprob, _ in independent([(row[-120:], 60) for row in rows])]
    assert at[1]["last_nats"] == pytest.approx(sum(sums) / 120, abs=EXACT)
    sums = [-logprob for logprob, _ in independent([(row, 180) for row in rows])]
    assert at[2]["last_nats"] == pytest.approx(sum(sums) / 120, abs=EXACT)
    assert len(at[2]["by_position"]) == 4 and at[2]["needles"]["n"] == len(DEPTHS)

    how = dataclasses.replace(HOW, ropes=("default", "linear", "dynamic"))
    tried = length.measure(model, {"en": Texts(rows, HAY)}, how, batch_rows=2, cache=tmp_path / "cache.jsonl")["ropes"]
    assert tried["default"] == found["ropes"]["default"]
    own = dataclasses.replace(CONFIG, rope=RopeConfig(kind="linear", factor=2.0))
    alone = length.measure(loaded(own), {"en": Texts(rows, HAY)}, HOW, batch_rows=2)["ropes"]["linear"]
    assert tried["linear"] == alone != tried["default"]
    inside, past = ([one[n]["nats"] for one in (tried[k]["en"]["lengths"] for k in tried)] for n in (0, 1))
    assert inside[0] == inside[2] != inside[1], "dynamic changes nothing within the original length"
    assert past[0] != past[2]


def test_every_kind_gets_the_fields_that_it_reads():
    kinds = {kind: length.scaled(kind, HOW) for kind in ("default", "linear", "dynamic", "yarn", "llama3")}
    assert kinds["default"] == RopeConfig() and kinds["linear"] == RopeConfig(kind="linear", factor=2.0)
    assert all(kinds[kind].original_max_position_embeddings == 120 for kind in ("dynamic", "yarn", "llama3"))


def test_text_is_joined_by_language_and_too_little_of_it_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "".join(
            f'{{"text": "{text}", "lang": "{lang}"}}\n' for text, lang in [("ab" * 70, "en"), ("好" * 90, "zh")] * 3
        )
    )
    found = length.read_texts([tmp_path / "a.jsonl"], TOKENIZER, HOW)
    assert list(found) == ["en", "zh"] and len(found["en"].rows) == 1 and len(found["zh"].rows) == 3
    assert found["en"].rows[0] == [*TOKENIZER.encode("ab" * 70), 2, *TOKENIZER.encode("ab" * 70)][:240]
    few = dataclasses.replace(HOW, times=(1, 4))
    with pytest.raises(DataError, match=r"423 tokens of en, a row of 4 x 120 needs 480"):
        length.read_texts([tmp_path / "a.jsonl"], TOKENIZER, few)
    with pytest.raises(ConfigError, match="must be different lengths"):
        dataclasses.replace(HOW, times=(2, 2))


def figures(right: float) -> dict:
    found = {"right": right, "n": 20, "nats": 1.0, "by_depth": {"0": right, "1": right}}
    lengths = [
        {
            "times": n,
            "length": 8 * n,
            "nats": 2.0,
            "last_nats": 1.0 + n,
            "by_position": [2.0] * (2 * n),
            "needles": found,
        }
        for n in (1, 2, 4)
    ]
    own = {lang: {"rows": 3, "lengths": lengths} for lang in ("en", "zh")}
    return {"trained": 8, "times": [1, 2, 4], "bin": 4, "factor": 4.0, "ropes": {"default": own, "yarn": own}}


def test_the_page_and_the_picture_show_a_line_for_each_kind(tmp_path):
    made = figures(0.85)
    length_page.write(tmp_path / "page.html", "made up", made)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<polyline") == 12 and "85%" in page and "English: loss of the last 4 tokens, nats" in page
    length_page.write_pictures(tmp_path / "plot.svg", made)
    picture = ET.parse(tmp_path / "plot.svg").getroot()
    names = [e.text for e in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert names.count("yarn") == 1 and names.count("4x") == 6
    loss = next(picture.iter("{http://www.w3.org/2000/svg}polyline")).attrib["points"]
    places = [tuple(map(float, point.split(","))) for point in loss.split()]
    assert [x for x, _ in places] == [0, 500, 1000] and places[0][1] > places[1][1] > places[2][1]
