"""The command line as a user meets it: help, one line and an exit code for everything that can be wrong, Ctrl-C."""

import dataclasses
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from child_processes import heeding_ctrl_c
from refusals import FROM, REFUSALS
from typed import CONFIG, MIXTURE, at, full_disk, refused, refused_last, run

from tigerjax.checkpoint import arrays, stored
from tigerjax.checkpoint.files import read_meta, steps
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.command import arguments, cli, table
from tigerjax.files.jsonl import write_jsonl
from tigerjax.records import documents, sft_examples

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "data_mixtures" / "embedded"
CTRL_C_SECONDS = 500.0  # TensorFlow, JAX and the compiler start in it, beside the other test worker


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder as a user would have it: texts, tokenizers, a mixture, a config, and a run of four steps."""
    home = tmp_path_factory.mktemp("cli")
    for lang in ("zh", "en"):
        write_jsonl(home / f"{lang}.jsonl", list(documents(EMBEDDED / f"corpus_{lang}.jsonl"))[:200])
    write_jsonl(home / "sft.jsonl", list(sft_examples(EMBEDDED / "sft.jsonl"))[:100])
    (home / "broken.jsonl").write_text('{"text": "一"}\n{"text": 二}\n')
    (home / "latin.jsonl").write_bytes('{"text": "una"}\n{"text": "señor"}\n'.encode("latin-1"))
    (home / "deep.jsonl").write_text("[" * 100_000 + "\n")
    (home / "empty.jsonl").write_text("")
    (home / "cli_mixture.py").write_text(MIXTURE)
    (home / "tiny.py").write_text(CONFIG)
    (home / "syntax.py").write_text("from tigerjax.config import *\n\ndef config(:\n")
    (home / "field.py").write_text("from tigerjax.config import *\n\ndef config():\n    return MeshConfig(fsdq=2)\n")
    (home / "precious").mkdir()
    (home / "precious" / "thesis.txt").write_text("years of work")
    (home / "prompts.jsonl").write_text('{"prompt_id": "a", "text": "What is this?"}\n')
    (home / "no_prompts.jsonl").write_text("\n")
    (home / "half").mkdir()
    (home / "half" / "report.json").write_text('{"seed": 0')
    with at(home):
        for command in (
            "tokenizer train --input zh.jsonl en.jsonl --vocab-size 950 --out base",
            "tokenizer train --input zh.jsonl --vocab-size 2200 --out bpe",
            "tokenizer extend --base base --new bpe --vocab-size 1200 --out tok",
            "tokenizer extend --base base --new bpe --vocab-size 1199 --out other_tok",
            "train tiny.py --json trained.json",
        ):
            assert cli.main(shlex.split(command)) == 0, command
    return home


@pytest.fixture
def home(made, tmp_path):
    """A copy of it that a test may spoil."""
    shutil.copytree(made, tmp_path / "home")
    with at(tmp_path / "home"):
        yield tmp_path / "home"


@pytest.mark.parametrize("words", table.COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_that_its_arguments_accept(words, capfd, monkeypatch):
    code, out, _ = run(" ".join([*words, "--help"]), capfd)
    assert code == 0 and all(len(line) <= 120 or "Example: " in line for line in out.splitlines())
    (example,) = re.findall(rf"Example: tigerjax ({' '.join(words)} .*)", " ".join(out.split()).replace("│", ""))[:1]
    command = table.COMMANDS[words]
    line = re.search(r"Example: tigerjax (.*)", inspect.getdoc(command))[1]
    assert example.startswith(line)
    arguments.bind(command, shlex.split(line)[len(words) :], "tigerjax").arguments()
    assert "json" in inspect.signature(command).parameters


def test_a_group_lists_its_commands(capfd):
    for group in ("tokenizer", "data", "data dedup", "reward", "align", "convert"):
        code, out, _ = run(f"{group} --help", capfd)
        assert code == 0 and f"\n  {group} " in out
        refused(group, 2, f"`tigerjax {group}` needs one more word", capfd)
    refused("tokenizer verfy", 2, "did you mean `tigerjax tokenizer verify`", capfd)


@pytest.mark.parametrize(("command", "code", "words"), REFUSALS, ids=[command for command, _, _ in REFUSALS])
def test_bad_input_gets_one_clear_line_and_its_exit_code(made, command, code, words, capfd):
    with at(made):
        refused(command, code, words, capfd)
    assert (made / "precious" / "thesis.txt").read_text() == "years of work"
    assert not any((made / name).exists() for name in ("x", "hf", "out", "precious.partial"))


def test_training_prints_its_figures_and_the_checkpoint_knows_its_tokenizer(made):
    figures = json.loads((made / "trained.json").read_text())
    assert figures["run"] == "runs/tiny" and figures["step"] == 4 and figures["loss_nats"] > 0
    assert {"tokens_per_s", "mfu", "data_wait_share", "shares", "grad_norm", "lr"} <= set(figures)
    assert load_model(made / "runs" / "tiny").tokenizer_sha256 is not None


def test_a_truncated_checkpoint_falls_back_and_a_truncated_only_one_stops_the_run(home, capfd):
    folder = home / "runs" / "tiny" / "checkpoints"
    assert steps(folder) == [4, 2]

    def cut(step: int) -> None:
        longest = max((p for p in (folder / str(step)).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        longest.write_bytes(longest.read_bytes()[:-1])

    cut(4)
    code, out, err = run("train tiny.py", capfd)
    assert code == 0 and "checkpoints/4 is damaged" in err and "resuming tiny from step 2" in err
    assert "step 4/4" in out and "step 1/4" not in out
    read_meta(folder / "4")
    before = (home / "runs" / "tiny" / "metrics.jsonl").read_bytes()
    cut(4)
    cut(2)
    for _ in range(2):  # what was set aside still counts in the second attempt
        code, _, err = run("train tiny.py", capfd)
        assert code == 3 and "has no whole checkpoint left (2.damaged, 4.damaged)" in err
    assert (home / "runs" / "tiny" / "metrics.jsonl").read_bytes() == before
    refused("convert to-hf runs/tiny hf", 3, "no whole checkpoint here", capfd)


def test_the_loss_on_held_out_examples_is_the_same_from_a_disk_and_from_a_bucket(cloud, home, capfd):
    cloud.put("bucket/held/sft.jsonl", (home / "sft.jsonl").read_bytes())
    for root in (".", "gs://bucket/held"):
        code, out, err = run(f"train tiny.py --eval.sets {root}/sft.jsonl --json {root}/figures.json", capfd)
        assert code == 0 and re.search(r"sft/lang/en +loss \d", out), err
    disk = json.loads((home / "figures.json").read_text())["validation"]["sft"]
    assert disk == json.loads(cloud.objects["bucket/held/figures.json"].data)["validation"]["sft"]
    assert disk["tokens"] > 100 and 0 < disk["loss_nats"] < 8 and disk["by_lang"].keys() == {"en"}


def test_a_full_disk_is_one_line_and_loses_nothing(home, capfd):
    run_dir = home / "runs" / "tiny"
    with full_disk():
        refused("data clean --input zh.jsonl --out x", 3, "no space left on the disk", capfd)
        refused("tokenizer train --input zh.jsonl --vocab-size 1500 --out x", 3, "no space left on the disk", capfd)
        refused("convert to-hf runs/tiny x", 3, "no space left on the disk", capfd)
        refused("train tiny.py --out r --data.cache-dir c", 3, "no space left on the disk", capfd)
        code, _, err = run("train tiny.py --optim.total-steps 6 --checkpoint.every-steps 6", capfd)
    assert code == 3 and "the disk is full" in err and "Traceback" not in err
    assert not list(home.glob("x*")) and not list((home / "c").glob("*"))
    assert steps(run_dir / "checkpoints") == [4, 2] and not list((run_dir / "checkpoints").glob("*.partial*"))
    assert run("train tiny.py --optim.total-steps 6", capfd)[0] == 0
    assert steps(run_dir / "checkpoints") == [6, 4]


def test_sampling_scoring_and_conversion_go_round(home, capfd):
    code, _, err = run("sample tiny.py --prompts prompts.jsonl --out s --n 3 --max-new-tokens 4 --json s.json", capfd)
    figures = json.loads((home / "s.json").read_text())
    assert code == 0 and figures["candidates"] == 3 and {"tokens_per_s", "compilations"} <= set(figures), err
    assert len(json.loads((home / "s" / "candidates.jsonl").read_text())["candidates"]) == 3
    assert run("convert to-hf runs/tiny hf --tokenizer tok --json c.json", capfd)[0] == 0
    assert run("convert from-hf hf back --json b.json", capfd)[0] == 0
    for name in ("c.json", "b.json"):
        assert {"tensors", "bytes", "peak_rss_gb", "seconds"} <= set(json.loads((home / name).read_text()))
    one, other = load_model(home / "runs" / "tiny"), load_model(home / "back")
    assert one.sha256 == other.sha256 and one.tokenizer_sha256 == other.tokenizer_sha256
    refused("convert from-hf hf precious", 2, "precious holds something that is not a checkpoint", capfd)


def test_ctrl_c_saves_exits_130_and_the_run_goes_on_from_there(home, capfd):
    """A process of its own, without the settings of the tests: it must also start quietly."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "TF_"))}
    clean |= {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"]}
    words = ["train", "tiny.py", "--out", "long", "--optim.total-steps", "20000", "--checkpoint.every-steps", "20000"]
    with open("out.txt", "w") as out, open("err.txt", "w") as err:
        with heeding_ctrl_c():
            process = subprocess.Popen([sys.executable, "-m", "tigerjax", *words], env=clean, stdout=out, stderr=err)
        try:
            deadline = time.monotonic() + CTRL_C_SECONDS
            while "step 3/20000" not in Path("out.txt").read_text():
                assert process.poll() is None and time.monotonic() < deadline, Path("err.txt").read_text()
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            code = process.wait(CTRL_C_SECONDS)
        finally:
            process.kill()
    first, *said = Path("err.txt").read_text().splitlines()
    (step,) = steps(home / "long" / "checkpoints")
    assert first.startswith("first step after ")
    assert code == 130 and step >= 3
    assert said == [
        "",  # the terminal's ^C stands in the line before
        "SIGINT: the step in hand is finished and a checkpoint saved, then this ends; once more to end without saving",
        f"SIGINT: stopped after step {step}/20000, checkpoint saved; the same command resumes",
        "tigerjax: interrupted; run the same command again to continue",
    ]
    assert dataclasses.asdict(load_model(home / "long").config)["num_layers"] == 1


def test_the_folder_of_a_run_stands_for_its_config_and_its_model(home, capfd):
    """So nothing has to be repeated after `train --out`."""
    shutil.copytree("runs/tiny", "elsewhere")
    shutil.rmtree("runs")
    Path("tiny.py").unlink()
    code, out, err = run("train elsewhere", capfd)
    assert (code, out) == (0, Path("elsewhere/config.txt").read_text())
    assert err == (
        "tiny: all 4 steps are done, nothing to train\nnext: tigerjax sample elsewhere --prompts FILE --out DIR\n"
    )
    code, out, _ = run("sample elsewhere --prompts prompts.jsonl --out drawn --n 2 --max-new-tokens 4", capfd)
    assert code == 0 and re.match(r"asked {20}What is this\?\nanswered {17}\S", out)
    asked = "sample elsewhere --prompts prompts.jsonl --out plain --n 2 --max-new-tokens 4 --no-chat"
    assert run(asked, capfd)[0] == 0
    in_chat, plain = (
        json.loads(Path(f"{out}/candidates.jsonl").read_text().splitlines()[0]) for out in ("drawn", "plain")
    )
    assert len(in_chat["candidates"]) == len(plain["candidates"]) == 2 and in_chat != plain


def test_a_dry_run_checks_what_the_run_starts_from_and_reads_no_weights(home, capfd, monkeypatch):
    model = load_model("runs/tiny")
    of_tok = {"tokenizer_sha256": model.tokenizer_sha256}
    save_model("headless", {k: v for k, v in model.weights.items() if k != "head"}, model.config, **of_tok)
    save_model("scorer", model.weights, model.config, kind="reward", **of_tok)
    refused(f"{FROM} headless", 3, "headless: its weights do not fit the config's model: head is missing", capfd)
    refused(f"{FROM} scorer", 2, "kind is 'reward' there and 'llama' here", capfd)
    monkeypatch.delattr(arrays.Stored, "__getitem__")
    monkeypatch.delattr(stored, "check_bytes")
    code, out, err = run(f"{FROM} runs/tiny", capfd)
    assert (code, err) == (0, "") and "checkpoint.init_from = 'runs/tiny'" in out and not Path("r").exists()
    code, _, err = run("train tiny.py --dry-run --checkpoint.init-from gone --optim.total-steps 6", capfd)
    assert code == 0 and err.endswith("would resume tiny from step 4\n")  # so it does not read `gone`


@pytest.mark.parametrize(
    "given, code, line",
    [
        ("--weights.trained embd", 2, "weights.trained: 'embd' names no weight of this model"),
        ("--weights.frozen '*'", 2, "weights.frozen leaves nothing to train"),
        ("--weights.frozen-dtype int8", 2, "weights.frozen_dtype='int8', but all weights are trained"),
        ("--lora.rank 2 --checkpoint.init-from None", 2, "checkpoint.init_from names none; set it"),
        ("--eval.sets a=gone.jsonl", 3, "held-out set a: gone.jsonl: no such file"),
        ("--eval.every-steps 2", 2, "eval: there is no held-out set"),
        ("--eval.sets a=sft.jsonl --eval.metric a/los", 2, "eval.metric='a/los' is no figure of the held-out sets"),
        ("--eval.sets a=sft.jsonl b=sft.jsonl --eval.every-steps 2 --checkpoint.keep-best", 2, "eval.metric must say"),
        ("--eval.questions gone.jsonl", 3, "gone.jsonl"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(home, given, code, line, capfd):
    refused(f"{FROM} runs/tiny {given}", code, line, capfd)


@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_a_config_without_rows_has_none_to_cache(name, home, capfd):
    refused(f"data cache {ROOT}/configs/quickstart_{name}.py", 2, "so there are no rows to cache; run the", capfd)


def test_a_dry_run_takes_a_figure_of_a_language_without_reading_the_set(home, capfd):
    asked = "--eval.sets a=sft.jsonl --eval.metric a/lang/zh/loss_nats"
    assert run(f"{FROM} runs/tiny {asked}", capfd)[0] == 0


def test_fewer_steps_than_are_done_says_what_was_asked_and_what_is_there(home, capfd):
    code, _, err = run("train tiny.py --optim.total-steps 3", capfd)
    assert code == 0 and "the config asks for 3 steps (optim.total_steps) and" in err
    assert "runs/tiny/checkpoints/4 has done 4; " in err and "all 3 steps" not in err and "resuming tiny" not in err


def test_an_alignment_goes_step_by_step_waits_for_people_and_runs_on(home, capfd):
    from tigerjax.model.reward import from_language

    chat = load_model("runs/tiny")
    extra = {"calibration": {"mean": 0.0, "std": 1.0, "n": 2}, "truncation_penalty": 2.0}
    weights = jax.device_get(from_language(chat.weights, jax.random.key(0)))
    save_model("rm", weights, chat.config, kind="reward", tokenizer_sha256=chat.tokenizer_sha256, extra=extra)
    (home / "dev.jsonl").write_text("".join((EMBEDDED / "dev.jsonl").open(encoding="utf-8").readlines()[:4]))
    assert (
        run("reward calibrate tiny.py --data.seq-len 128 --calibration-set sft.jsonl --model rm --json c.json", capfd)[
            0
        ]
        == 0
    )
    found = load_model("rm").extra["calibration"]
    assert found["n"] == 100 and json.loads((home / "c.json").read_text())["before"] == extra["calibration"]
    assert load_model("rm").extra["truncation_penalty"] == 2.0
    plan = (
        "align init tiny.py --data.seq-len 128 --out al --sft sft.jsonl --models runs/tiny --reward rm"
        " --evaluation-set dev.jsonl --n 2 --max-new-tokens 4 --align.prompt-fraction 0.05 --align.min-win-rate 0"
        " --align.max-mean-loss-points 100 --align.max-task-loss-points 100"
    )
    assert run(plan, capfd)[0] == 0 and run(plan, capfd)[0] == 0
    refused(plan.replace("--n 2", "--n 3"), 2, "holds other settings \\(sampling differ\\)", capfd)
    refused("align status nowhere", 2, "align init", capfd)
    refused("align score al", 2, "step prompts is not done; run `tigerjax align prompts al` first", capfd)
    refused_last(
        "align run al --json out.json", 4, "labels are missing: 1 of 1 rankings.*`tigerjax align import al", capfd
    )

    queue = [json.loads(line) for line in (home / "al/rounds/01/queue/queue.jsonl").read_text().splitlines()]
    assert [(item["rank"], item["edit"]) for item in queue] == [(True, True)]
    names = [c["label"] for c in queue[0]["candidates"]]
    line = {name: queue[0][name] for name in ("prompt_id", "batch_sha256")} | {"annotator": "a"}
    ranking, edit = line | {"ranking": [names]}, line | {"base": names[0], "text": "People wrote this."}
    (home / "bad.jsonl").write_text(json.dumps(ranking) + "\n" + json.dumps(edit | {"base": "Z"}) + "\n")
    code, _, err = run("align import al --labels bad.jsonl", capfd)
    assert code == 3 and "bad.jsonl:2: " in err and not list((home / "al/labels").rglob("*.jsonl"))
    (home / "good.jsonl").write_text(json.dumps(ranking) + "\n")
    refused_last("align import al --labels good.jsonl", 4, "0 of 1 rankings and 1 of 1 edits", capfd)  # and it is kept
    (home / "more.jsonl").write_text(json.dumps(edit) + "\n")
    assert run("align import al --labels more.jsonl", capfd)[0] == 0

    sampled = (home / "al/rounds/01/sample" / "candidates.jsonl").read_bytes()
    assert run("align run al --json out.json", capfd)[0] == 0
    (figures,) = json.loads((home / "out.json").read_text())["rounds"]
    assert figures["winners"]["edit"] == 1 and figures["gate"] == "accepted"
    assert {"reward_before", "reward_after"} <= set(figures)
    assert (home / "al/rounds/01/sample" / "candidates.jsonl").read_bytes() == sampled
    mixed = [json.loads(line) for line in (home / "al/rounds/01/mix/sft.jsonl").read_text().splitlines()]
    assert "People wrote this." in [m["messages"][-1]["content"] for m in mixed if m["source"] == "rejection_sampling"]
    code, out, _ = run("align status al --json out.json", capfd)
    assert code == 0 and "gate" in out
    assert {line["state"] for line in json.loads((home / "out.json").read_text())["steps"]} == {"done"}
    assert run("align prompts al", capfd)[0] == 0  # of the second round, from the new model or the old one
    chosen = json.loads((home / "al/rounds/02/candidate/candidate.json").read_text())
    assert len(chosen["candidates"]) == 2
