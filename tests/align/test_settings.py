"""A project can be corrected once it has begun: what no finished step has used changes, and `init` opens its inputs."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from tiny_project import ROOT, align, config_words

from tigerjax.align import inputs
from tigerjax.align import settings as settings_lib
from tigerjax.align.config import AlignConfig
from tigerjax.align.steps import STEPS, USES
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.command import arguments, table
from tigerjax.command.cli import main
from tigerjax.command.groups import SamplingOptions
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest


def begun(folder: Path, *done: str) -> Path:
    """A project whose first round has finished these steps."""
    align = dataclasses.asdict(AlignConfig(prompt_fraction=0.1, seed=0))
    sampling = dataclasses.asdict(SamplingOptions())
    files = {"sft": ["s"], "models": ["c"], "reward": "r", "evaluation_set": "q", "gold": [], "safety": None}
    settings_lib.write(
        folder,
        settings_lib.AlignSettings(
            config="x", overrides=[], align=align, sampling=sampling, score_batch_size=8, exclude=None, **files
        ),
    )
    finish(folder, 1, *done)
    return folder


def finish(folder: Path, index: int, *done: str) -> None:
    for step in done:
        place = folder / "rounds" / f"{index:02d}" / step
        place.mkdir(parents=True)
        manifest.write_json(place / manifest.FILE, {"stage": step})


def test_every_setting_says_which_steps_use_it():
    fields = {f.name for f in dataclasses.fields(settings_lib.AlignSettings)} - {"config", "overrides"}
    fields = fields - {"align", "sampling"} | {f.name for f in dataclasses.fields(AlignConfig)}
    assert settings_lib.USED_BY.keys() == fields | {f.name for f in dataclasses.fields(SamplingOptions)}
    assert set(USES) == set(STEPS)


def test_settings_that_an_older_version_wrote_are_read_by_their_new_names(tmp_path):
    folder = begun(tmp_path / "dir")
    path, new = folder / settings_lib.FILE, settings_lib.read(folder)
    old = {before: after for after, before in settings_lib.RENAMED.items()}
    stored = {old.get(name, name): value for name, value in dataclasses.asdict(new).items()}
    path.write_text(json.dumps(stored | {"sft": stored["sft"][0]}))
    assert set(settings_lib.RENAMED) <= set(stored) and settings_lib.read(folder) == new


@pytest.mark.parametrize(
    "change",
    [
        {"align": "x"},
        {"align": {"nothing": 1}},
        {"sampling": [1]},
        {"sampling": {}},
        {"sampling": {"max_new_tokens": 8, "n": "8"}},
        {"sampling": {"max_new_tokens": 8, "m": 8}},
        {"models": ["c", 1]},
        {"models": "c"},
        {"score_batch_size": "8"},
        {"score_batch_size": True},
        {"safety": 3},
        {"reward": None},
    ],
    ids=repr,
)
def test_settings_of_another_type_are_one_line_and_not_taken(tmp_path, change):
    folder = begun(tmp_path / "dir")
    path = folder / settings_lib.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=r"align.json: not as it was written \("):
        settings_lib.read(folder)


def test_what_no_finished_step_has_used_can_be_changed_and_the_rest_not(tmp_path):
    folder = begun(tmp_path / "dir", "candidate", "prompts", "sample", "score", "queue")
    new = settings_lib.changed(folder, {"allow_partial": True, "min_score": 0.5, "safety": "/list"}, again=False)
    assert new.align["allow_partial"] is True and new.align["min_score"] == 0.5 and new.safety == "/list"
    for name, value in {"prompt_fraction": 0.05, "max_new_tokens": 9, "reward": "other", "seed": 1}.items():
        with pytest.raises(ConfigError, match=rf"{name}=.* has been used by step \w+ of round 01.*--again"):
            settings_lib.changed(folder, {name: value}, again=False)
        assert settings_lib.changed(folder, {name: value}, again=True) != settings_lib.read(folder)
    assert settings_lib.changed(folder, {"prompt_fraction": 0.1}, again=False) == settings_lib.read(folder)
    with pytest.raises(ConfigError, match="prompt_fraction"):
        settings_lib.changed(folder, {"prompt_fraction": 2.0}, again=True)


def test_fields_of_the_config_can_be_overridden_until_a_step_has_used_them(tmp_path):
    folder = begun(tmp_path / "dir", "candidate", "prompts", "sample")
    old = settings_lib.read(folder)
    new = settings_lib.overridden(folder, old, {"optim.peak_lr": 3e-4, "health.enabled": False}, again=False)
    assert new.overrides == ["--optim.peak-lr", "0.0003", "--health.no-enabled"]
    words = {"optim.peak_lr": 1e-5, "health.enabled": True, "data.modules": ("a", "b")}
    newer = settings_lib.overridden(folder, new, words, again=False)
    assert newer.overrides == ["--optim.peak-lr", "1e-05", "--health.enabled", "--data.modules", "a", "b"]
    for name, value in {"data.seq_len": 8, "compute.dtype": "float32", "model.vocab_size": 9}.items():
        with pytest.raises(ConfigError, match=r"--\S+=as in the config has been used by step candidate of round 01"):
            settings_lib.overridden(folder, old, {name: value}, again=False)
        assert settings_lib.overridden(folder, old, {name: value}, again=True).overrides
    smaller = settings_lib.overridden(folder, old, {"compute.cache_tokens": 4096}, again=False)
    assert smaller.overrides == ["--compute.cache-tokens", "4096"]  # no answer depends on it
    finish(folder, 1, "train")
    with pytest.raises(ConfigError, match=r"--optim\.peak-lr=0\.0003 has been used by step train"):
        settings_lib.overridden(folder, new, {"optim.peak_lr": 1.0}, again=False)
    assert settings_lib.overridden(folder, new, {"optim.peak_lr": 3e-4}, again=False) == new


def test_set_takes_the_fields_of_the_config():
    typed = ["dir", "--optim.peak-lr", "1e-4", "--global-batch-size", "8"]
    call = arguments.bind(table.COMMANDS["align", "set"], typed, "p")
    assert call.arguments()["config"] == {"optim.peak_lr": 1e-4, "global_batch_size": 8}


def test_the_next_reward_model_enters_the_round_after_one_that_has_ended(tmp_path):
    folder = begun(tmp_path / "dir", "candidate", *STEPS)
    assert settings_lib.changed(folder, {"reward": "next"}, again=False).reward == "next"
    finish(folder, 2, "candidate", "prompts", "sample", "score")
    with pytest.raises(ConfigError, match="used by step score of round 02"):
        settings_lib.changed(folder, {"reward": "next"}, again=False)


def words(made: Path, out: Path, **changed: object) -> list[object]:
    named: dict[str, object] = {"sft": made / "sft.jsonl", "models": made / "chat"}
    named |= {"reward": made / "reward", "evaluation-set": made / "questions.jsonl", "out": out}
    named |= {name.replace("_", "-"): value for name, value in changed.items()}
    config = config_words(made, 4, 8)
    return ["init", ROOT / "configs" / "quickstart_rejection_sampled.py", *config, *(
        word for name, value in named.items() for word in (f"--{name}", value)
    )]  # fmt: skip


LONG = {"id": "q", "lang": "en", "task": "say", "prompt": "no " * 64, "answers": ["no"]}


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_sft_set_may_be_several_files_by_a_pattern(made, tmp_path):
    lines = (made / "sft.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("sft_a.jsonl", lines[:20]), ("sft_b.jsonl", lines[20:])):
        (tmp_path / name).write_text("".join(part))
    align(*words(made, tmp_path / "dir", sft=tmp_path / "sft_*.jsonl"))
    settings = settings_lib.read(tmp_path / "dir")
    assert settings.sft == [str(tmp_path / "sft_a.jsonl"), str(tmp_path / "sft_b.jsonl")]
    align("set", tmp_path / "dir", "--sft", made / "sft.jsonl")
    assert settings_lib.read(tmp_path / "dir").sft == [str(made / "sft.jsonl")]


@pytest.mark.parametrize(("name", "model"), [("models", "chat"), ("reward", "reward")])
def test_init_checks_every_byte_of_its_models(made, tmp_path, capfd, name, model):
    copy = tmp_path / "copy"
    shutil.copytree(made / model, copy)
    path = max((copy / "weights").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert main([str(word) for word in ("align", *words(made, tmp_path / "dir", **{name: copy}))]) == 3
    assert "xxh3 is" in capfd.readouterr().err and not (tmp_path / "dir").exists()


def test_init_opens_every_input_and_names_the_one_that_is_wrong(made, tmp_path, capfd):
    chat = load_model(made / "chat")
    save_model(tmp_path / "raw", load_model(made / "reward").weights, chat.config, kind="reward")
    other = dataclasses.replace(chat.config, rope_base=999.0)
    save_model(tmp_path / "other", chat.weights, other, tokenizer_sha256=chat.tokenizer_sha256)
    wrong = {
        "holds a language model; give a reward model": (2, {"reward": made / "chat"}),
        "not calibrated; run `tigerjax reward calibrate": (2, {"reward": tmp_path / "raw"}),
        "holds a reward model; give a language model": (2, {"models": made / "reward"}),
        "is not that of the config: model.rope_base is 999.0 there": (2, {"models": tmp_path / "other"}),
        "q.jsonl is a file; give a run folder": (3, {"reward": written(tmp_path / "q.jsonl", {})}),
        "questions.jsonl:1: ": (3, {"sft": made / "questions.jsonl"}),
        "sft.jsonl:1": (3, {"evaluation-set": made / "sft.jsonl"}),
        "gold.jsonl:1: has ['text']": (3, {"gold": written(tmp_path / "gold.jsonl", {"text": "x"})}),
        "safety.txt: not UTF-8 at byte 1": (3, {"safety": tmp_path / "safety.txt"}),
        "tokens, which leaves no room": (3, {"evaluation-set": written(tmp_path / "long.jsonl", LONG)}),
        "edit_fraction=0.8 exceeds rank_fraction=0.05": (2, {"align.edit-fraction": 0.8}),
        "prompts wanted": (2, {"exclude": tmp_path / "all.txt"}),
    }
    (tmp_path / "safety.txt").write_bytes(b"x\xff")
    (tmp_path / "all.txt").write_text("".join(f"e{i}\n" for i in range(50)))
    for message, (code, changed) in wrong.items():
        align(*words(made, tmp_path / "dir", **changed), code=code)
        said = capfd.readouterr().err
        assert message in said, (message, said)
    assert not (tmp_path / "dir").exists()
    with pytest.raises(DataError, match="nothing does not exist; give a run folder"):
        inputs.check_reward(str(tmp_path / "nothing"), None, None, ask_judge=False)


def test_init_reads_the_preferences_of_the_config(made, tmp_path, capfd):
    bad = written(tmp_path / "bad.jsonl", {"text": "x"})
    given = words(made, tmp_path / "dir", **{"objective.preferences": bad})
    given[1] = ROOT / "configs" / "quickstart_dpo.py"
    align(*given, code=3)
    assert "bad.jsonl:1: has ['text']" in capfd.readouterr().err and not (tmp_path / "dir").exists()


def test_set_changes_a_project_and_refuses_what_does_not_open(made, tmp_path, capfd):
    out = tmp_path / "dir"
    (tmp_path / "exclude.txt").write_text("e7\nnobody\n")
    align(*words(made, out, exclude=tmp_path / "exclude.txt"))
    assert "1 of 2 ids in" in capfd.readouterr().err
    align("set", out, code=2)
    align("set", out, "--reward", made / "chat", code=2)
    align("set", out, "--align.allow-partial", "--max-new-tokens", 4, "--safety", tmp_path / "exclude.txt")
    assert "allow_partial            False -> True" in capfd.readouterr().out
    new = settings_lib.read(out)
    assert new.align["allow_partial"] is True and new.sampling["max_new_tokens"] == 4
    assert new.safety == str(tmp_path / "exclude.txt") and new.reward == str(made / "reward")
    align(*words(made, out, exclude=tmp_path / "exclude.txt"), code=2)
    assert "align set" in capfd.readouterr().err
