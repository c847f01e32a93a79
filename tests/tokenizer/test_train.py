import json
import re

import pytest

from tigerjax.command import cli, options, table
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.model_file import BYTE, CONTROL, NORMAL, UNKNOWN, read_proto
from tigerjax.tokenizer.sample import read_documents, sample, split_lines
from tigerjax.tokenizer.train import train_model


def test_a_trained_base_has_the_settings_of_llama_2(base_folder, embedded):
    ours, llama_class = read_proto(base_folder), read_proto(embedded / "base_32000.model")
    for field in (
        "model_type",
        "split_digits",
        "byte_fallback",
        "allow_whitespace_only_pieces",
        "unk_id",
        "bos_id",
        "eos_id",
        "pad_id",
        "unk_surface",
        "max_sentencepiece_length",
        "split_by_unicode_script",
    ):
        assert getattr(ours.trainer_spec, field) == getattr(llama_class.trainer_spec, field), field
    for field in ("name", "precompiled_charsmap", "add_dummy_prefix", "remove_extra_whitespaces"):
        assert getattr(ours.normalizer_spec, field) == getattr(llama_class.normalizer_spec, field), field
    assert [piece.type for piece in ours.pieces[:259]] == [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256
    assert all(piece.type == NORMAL for piece in ours.pieces[259:])


def test_training_twice_gives_equal_bytes_and_a_second_run_is_skipped(base_folder, embedded, tmp_path):
    first = train_model([embedded / "corpus_en.jsonl"], 1500, tmp_path / "again")
    assert Tokenizer(tmp_path / "again").sha256 == Tokenizer(base_folder).sha256
    assert train_model([embedded / "corpus_en.jsonl"], 1500, tmp_path / "again") == first


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (300, r"^--vocab-size 300 is too small for the characters of these [\d,]+ lines; give at least \d+$"),
        (
            1_000_000,
            r"^--vocab-size 1000000 is too large: these [\d,]+ lines .* \d+ entries only; .*--vocab-size \d+$",
        ),
    ],
)
def test_a_size_that_does_not_fit_the_text_is_refused_with_one_that_does(tmp_path, size, message):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "".join(map(chr, range(0x4E00, 0x4E80)))}) + "\n")
    with pytest.raises(ConfigError, match=message) as caught:
        train_model([tmp_path / "a.jsonl"], size, tmp_path / "small")
    assert not (tmp_path / "small").exists()
    train_model([tmp_path / "a.jsonl"], int(re.findall(r"\d+$", str(caught.value))[0]), tmp_path / "fits")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--vocab-size", "0"], "--vocab-size 0 must be at least 260 and at most 16,777,216"),
        (["train", "--vocab-size", "-5"], "--vocab-size -5 must be at least 260"),
        (["train", "--vocab-size", "259"], "--vocab-size 259 must be at least 260"),
        (["train", "--vocab-size", "99999999999"], "--vocab-size 99999999999 must be at least 260"),
        (["sample", "--fraction", "0"], "--fraction 0 must be above 0 and at most 1"),
        (["sample", "--fraction", "nan"], "--fraction nan must be above 0 and at most 1"),
        (["sample", "--max-sentences", "0"], "--max-sentences 0 must be at least 1"),
        (["sample", "--min-sample-bytes", "-1"], "--min-sample-bytes -1 must be at least 0"),
        (["sample", "--seed", "-1"], "--seed -1 must be at least 0"),
        (["extend", "--vocab-size", "1"], "--vocab-size 1 must be at least 260"),
    ],
)
def test_a_number_out_of_range_is_refused_before_any_text_is_read(tmp_path, capsys, words, message):
    inputs = ["--base", "none.model", "--new", "none.model"] if words[0] == "extend" else ["--input", "none.jsonl"]
    out = str(tmp_path / "out")
    assert cli.main(["tokenizer", *words, *inputs, "--out", out]) == 2
    assert capsys.readouterr().err.startswith(f"tigerjax: {message}")


@pytest.mark.parametrize("coverage", [0.0, -1.0, 1.5, float("nan")])
def test_a_character_coverage_out_of_range_is_refused_before_any_text_is_read(tmp_path, coverage):
    with pytest.raises(ConfigError, match=r"character_coverage=.* must be above 0 and at most 1"):
        train_model([tmp_path / "none.jsonl"], 400, tmp_path / "out", character_coverage=coverage)


def test_a_file_without_text_is_refused_by_name(tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(DataError, match=r"empty\.txt: is empty"):
        train_model([tmp_path / "empty.txt"], 400, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": ', "bad.jsonl:2: broken JSON"),
        (b'{"text": "\xff"}\n', "bad.jsonl:1: invalid UTF-8"),
        (b'{"text": 3}\n', "bad.jsonl:1: field 'text' is int"),
    ],
)
def test_bad_records_are_named_by_file_and_line(tmp_path, content, message):
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_documents(tmp_path / "bad.jsonl"))


def test_long_lines_are_cut_after_sentences_and_nothing_is_lost():
    text = "春眠不觉晓。" * 500 + "无" * 3000 + "x"
    lines = list(split_lines(text))
    assert "".join(lines) == text
    assert max(len(line.encode()) for line in lines) <= 4192
    assert lines[0].endswith("。")


def _documents(path, ids):
    path.write_text("".join(json.dumps({"id": f"d{i}", "text": f"text {i}"}) + "\n" for i in ids))
    return path


def _sample(inputs, out, fraction, **more):
    sample(inputs=inputs, out=out, fraction=fraction, seed=7, min_sample_bytes=more.pop("min_sample_bytes", 1), **more)
    return set((out / "sample.txt").read_text().splitlines())


def test_the_sample_depends_on_ids_and_seed_only_and_grows_with_the_fraction(tmp_path):
    forward = _documents(tmp_path / "a.jsonl", range(2000))
    backward = _documents(tmp_path / "b.jsonl", reversed(range(2000)))
    tenth = _sample([forward], tmp_path / "o1", 0.1)
    assert tenth == _sample([backward], tmp_path / "o2", 0.1)
    assert tenth < _sample([forward], tmp_path / "o3", 0.2)
    # 2,000 draws at 0.1 have a standard deviation of 13.4: five of them
    assert abs(len(tenth) - 200) < 67
    assert len(_sample([forward], tmp_path / "o4", 0.2, max_sentences=100)) == 100


def test_a_sample_below_the_wanted_bytes_is_refused(tmp_path):
    documents = _documents(tmp_path / "a.jsonl", range(50))
    with pytest.raises(DataError, match="below min_sample_bytes=100000"):
        _sample([documents], tmp_path / "o", 0.5, min_sample_bytes=100_000)


def test_verify_finds_a_changed_byte_in_every_tokenizer_stage(tmp_path, embedded, base_folder, monkeypatch, capsys):
    monkeypatch.setattr(manifest, "CHEAP_BYTES", 0)  # otherwise so small an output is always compared
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "".join(map(chr, range(0x4E00, 0x4E80)))}) + "\n")
    made = {
        "sample": (["--input", "a.jsonl", "--fraction", "1", "--min-sample-bytes", "0"], "sample.txt"),
        "train": (["--input", "a.jsonl", "--vocab-size", "400"], "tokenizer.model"),
        "extend": (["--base", str(base_folder), "--new", "train", "--vocab-size", "1520"], "tokenizer.model"),
    }
    monkeypatch.chdir(tmp_path)
    for name, (words, file) in made.items():
        command = ["tokenizer", name, *words, "--out", name]
        assert cli.main(command) == 0, capsys.readouterr().err
        content = (tmp_path / name / file).read_bytes()
        (tmp_path / name / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert cli.main(command) == 0 and (tmp_path / name / file).read_bytes() != content
        assert cli.main([*command, "--verify"]) == 0 and (tmp_path / name / file).read_bytes() == content
        assert f"{file} holds other bytes than were written; the stage is done again" in capsys.readouterr().err


STAGES = (
    ("tokenizer", ("sample", "train", "extend")),
    ("data", ("clean", "dedup exact", "dedup near", "dedup against-sft", "decontaminate", "tfds", "cache")),
)


@pytest.mark.parametrize("name", [f"{group} {name}" for group, names in STAGES for name in names])
def test_every_command_that_skips_finished_work_takes_verify(name):
    command = table.COMMANDS[tuple(name.split())]
    assert "--verify" in {option.name for option in options.of_command(command)}
