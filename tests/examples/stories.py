"""The examples in an order in which each finds what it reads, and those that are not run, with the reason.

A story begins in a copy of the small world (small_world.py). A line runs as it is shown, but for what `with_` says.
"""

import dataclasses
import json
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import studio_stand_in
import thirteen
from made_up import made_up_report
from my_mixtures import my_anneal, my_mixture
from small_world import STAND_IN

from tigerjax.align import stand_in
from tigerjax.command.cli import main
from tigerjax.serve.labels import Labels
from tigerjax.serve.requests import LabelRequest

SERVES = "a server ends when it is told to: tests/serve/http/test_serve_command.py starts one"
SMALL = "a number of the small world: its texts have no more pieces"


@dataclasses.dataclass(frozen=True)
class Line:
    """A command as it is shown, and what a run of it here needs."""

    shown: str
    code: int = 0
    """4 and 5 only where the line's page says that it waits for people, or that a gate may refuse."""
    also: int | None = None
    """Another documented code, with which the state of the machine may make it end."""
    with_: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Words that are replaced."""
    why: str = ""
    """Why words are replaced, or why it ends with another code than 0."""
    types: str = ""
    """What stands on its standard input."""
    before: Callable[[], None] | None = None
    """Makes what the line's page expects to be there already."""


def annotate() -> None:
    """Answers the questions of the newest round, as people would: answers.jsonl."""
    queue = max(Path("runs/align/rounds").glob("*/queue"))
    asked = [json.loads(line) for line in (queue / "queue.jsonl").read_text(encoding="utf-8").splitlines()]
    key = [{"prompt_id": a["prompt_id"], "annotator": "ann", "accept": ["a"], "edit": "An edit."} for a in asked]
    Path("key.jsonl").write_text("".join(json.dumps(line) + "\n" for line in key), encoding="utf-8")
    stand_in.answer(queue, "key.jsonl", "answers.jsonl")


def reward_file() -> None:
    """reward.toml as on its page, without the judge: no server runs here."""
    Path("my_rewards.py").write_text("def safe(answers):\n    return [1.0 for _ in answers]\n", encoding="utf-8")
    parts = '[helpful]\nreward = "runs/reward/model"\n[safe]\nreward = "my_rewards:safe"\nweight = 0\nfloor = 1\n'
    Path("reward.toml").write_text(parts, encoding="utf-8")


def talk() -> None:
    """What somebody kept in the page of `tigerjax serve --labels runs/talk`."""
    asked = {"annotator": "ann", "messages": [{"role": "user", "content": "Who are you?"}], "ranking": [[1]]}
    with Labels.open(Path("runs/talk"), "5" * 64) as labels:
        labels.add(LabelRequest(**asked, candidates=[{"text": "nobody"}, {"text": "a model"}]))


PEOPLE = ("ann@example.org", "bob@example.org", "cat@example.org")


def gold_questions() -> None:
    """gold.jsonl as in docs/FORMATS.md."""
    asked = [{"prompt": f"Name colour {n}.", "chosen": f"Blue {n}.", "rejected": f"Seven {n}."} for n in range(5)]
    Path("gold.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked), encoding="utf-8")


def free_port() -> int:
    """A port of this machine that nothing uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


PORT = free_port()


def label_studio() -> None:
    """A stand-in for Label Studio, which ends with this process, and its token."""
    studio_stand_in.serve([*PEOPLE], PORT)
    Path("token").write_text(studio_stand_in.TOKEN, encoding="utf-8")


def team_queue() -> None:
    """The questions of the round under way, for a team."""
    for step in ("prompts", "sample", "score", "queue"):
        assert main(["align", step, "runs/align"]) == 0


def team_labels() -> None:
    """The questions of ann, filled in."""
    queue = max(Path("runs/align/rounds").glob("*/queue"))
    lines = [json.loads(line) for line in (queue / "people" / PEOPLE[0] / "template.jsonl").open(encoding="utf-8")]
    rank, edit = {"ranking": [["A"]]}, {"base": "A", "text": "Better."}
    filled = [line | (rank if "ranking" in line else edit) for line in lines]
    Path("ann.jsonl").write_text("".join(json.dumps(line) + "\n" for line in filled), encoding="utf-8")


def without(folder: str) -> Callable[[], None]:
    """Removes a folder of the small world, or of a line before, that this line makes."""
    return lambda: shutil.rmtree(folder)


def copied(source: str, place: str) -> Callable[[], None]:
    """What another line has made, at the place where this one looks for it."""

    def copy() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, place)

    return copy


def config_as(name: str, source: str, how: str = "small") -> Callable[[], None]:
    """A config of the reader, who made it of one of the repository."""
    return lambda: Path(name).write_text(STAND_IN.format(source=source, how=how), encoding="utf-8") and None


def quickstart_report() -> None:
    """The figures that the quick start leaves behind, in short."""
    Path("runs/quickstart/report.json").write_text(json.dumps(made_up_report(samples=1)), encoding="utf-8")


def benchmark_files() -> None:
    """benchmarks_data, and a model where the config's run would be."""
    copied("runs/sft", "runs/tiger_7b_sft")()
    thirteen.write_all(Path("benchmarks_data"))


TEXTS = [
    Line("tigerjax doctor", also=5, why="5: it wants a change of this machine, such as a free disk"),
    Line("tigerjax new mymodel --base Llama-2-7b-hf --zh zh.jsonl --en en.jsonl --sft sft.jsonl"),
    Line(
        "tigerjax new mymodel --base Llama-2-7b-hf --zh 'zh/*.jsonl' --en 'en/*.jsonl' --sft sft.jsonl",
        before=without("mymodel"),
    ),
    Line("cd mymodel && cat README.md"),
    Line("tigerjax data plan --input zh.jsonl en.jsonl --workers 8 --json data_plan.json"),
    Line("tigerjax data clean --input zh.jsonl en.jsonl --out runs/clean --on language repetition"),
    Line(
        "tigerjax data dedup exact --input runs/clean/zh.jsonl --out runs/exact --workers 8",
        with_={"workers 8": "workers 1"},
        why="eight processes would only start, on so small a file",
    ),
    Line("tigerjax data dedup near --input runs/clean/zh.jsonl runs/clean/en.jsonl --out runs/dedup"),
    Line("tigerjax data dedup against-sft --docs runs/dedup/zh.jsonl --sft sft.jsonl --out runs/pretrain"),
    Line("tigerjax data decontaminate --docs sft.jsonl --evaluation-sets gsm8k.jsonl ceval.csv --out runs/sft_clean"),
    Line("tigerjax data tfds --input zh_books.jsonl --name zh_books --out tfds"),
    Line(
        "tigerjax tokenizer sample --input zh.jsonl --out runs/zh_sample --fraction 0.1",
        with_={"0.1": "0.1 --min-sample-bytes 1000"},
        why="a tenth of the small file is below the least size",
    ),
    Line(
        "tigerjax tokenizer train --input zh.jsonl --vocab-size 38000 --out runs/zh_bpe",
        with_={"38000": "2200"},
        why=SMALL,
    ),
    Line(
        "tigerjax tokenizer extend --base llama2/tokenizer.model --new runs/zh_bpe --vocab-size 60515 --out tok",
        with_={"60515": "1000"},
        why=SMALL,
        before=without("tok"),
    ),
    Line("tigerjax tokenizer verify tok --base llama2/tokenizer.model --text en.txt zh.jsonl"),
    Line("tigerjax tokenizer stats tok --text en.txt zh.jsonl"),
    Line("tigerjax convert from-hf Llama-2-7b-hf runs/llama2_7b --verify"),
    Line("tigerjax convert resize runs/llama2_7b runs/llama2_7b_zh --base tokenizer.model --tokenizer tok"),
    Line("tigerjax completion bash"),
]
RUNS = [
    Line("tigerjax data cache configs/llama2_tiny.py"),
    Line(
        "tigerjax data stats my_holistic --modules my_mixture --seq-len 2048 --json stats.json",
        with_={"2048": "64"},
        why="the texts of the small world fill few rows of 2,048 tokens",
        before=my_mixture,
    ),
    Line(
        "tigerjax data stats mine --modules my_mixture --seq-len 2048 --total-steps 10000 --global-batch-size 64"
        " --phases 9000=mine_anneal --page shares.html",
        with_={"2048": "64"},
        why="as above",
        before=my_anneal,
    ),
    Line(
        "tigerjax data inspect my_holistic --modules my_mixture --seq-len 2048 --out rows.html",
        with_={"2048": "64"},
        why="as above",
    ),
    Line("tigerjax train configs/llama2_tiny.py --optim.peak-lr 3e-4 --eval.sets sft.jsonl --out runs/tiny"),
    Line("tigerjax checkpoint ls runs/llama2_tiny", before=copied("runs/tiny", "runs/llama2_tiny")),
    Line("tigerjax checkpoint verify runs/llama2_tiny --step 50 100"),
    Line("tigerjax checkpoint rm runs/llama2_tiny --step 50"),
    Line("tigerjax train my_run.py", before=config_as("my_run.py", "configs/quickstart_holistic.py")),
    Line("tigerjax train my_run.py --optim.peak-lr 1e-4"),
    Line("tigerjax train my_sft.py", before=config_as("my_sft.py", "configs/quickstart_sft.py")),
    Line("tigerjax train my_sft.py --lora.rank 16 --checkpoint.init-from runs/sft --out runs/lora"),
    Line("tigerjax convert to-hf runs/lora adapter --adapter --verify"),
    Line("tigerjax convert to-hf runs/lora merged --tokenizer tok"),
    Line("tigerjax convert from-hf adapter runs/merged --base runs/sft"),
    Line(
        "tigerjax train my_run.py --weights.trained 'embed[32000:]' 'head[32000:]' --checkpoint.init-from"
        " runs/llama2_7b_zh",
        with_={"32000:]' 'head[32000": "600:]' 'head[600", "runs/llama2_7b_zh": "runs/sft --out runs/entries"},
        why="the small world's Llama 2 has 600 entries, and its grown model another name",
    ),
    Line("tigerjax train configs/quickstart_dpo.py --objective.preferences pairs.jsonl --objective.beta 0.1"),
    Line("tigerjax rl configs/quickstart_grpo.py --objective.rewards runs/reward/model --objective.kl 0.02"),
    Line("tigerjax sample configs/quickstart_sft.py --prompts prompts.jsonl --out runs/candidates --n 10"),
    Line(
        "tigerjax chat runs/quickstart",
        before=copied("runs/quickstart_sft", "runs/quickstart/rounds/01/train/run"),
        types="What is the capital of France?",
    ),
    Line(
        'echo "What is the capital of France?" | tigerjax chat runs/quickstart --temperature 0',
        with_={"tigerjax chat": f"{sys.executable} -m tigerjax chat"},
        why="by the Python that runs the tests",
    ),
    Line(
        "tigerjax chat runs/sft --reward-model runs/reward/model --n 4",
        with_={"runs/sft": "runs/sft --tokenizer tok"},
        why="the small world's run is a checkpoint of no run, which names no tokenizer",
        types="What is the capital of France?",
    ),
    Line("tigerjax serve runs/quickstart", with_={"quickstart": "quickstart --port 0 --dry-run"}, why=SERVES),
    Line("tigerjax serve runs/quickstart --port 8000", with_={"--port 8000": "--port 0 --dry-run"}, why=SERVES),
    Line(
        "tigerjax serve runs/quickstart --labels runs/talk --reward-model runs/quickstart/reward/model",
        with_={"--labels": "--port 0 --dry-run --labels"},
        why=SERVES,
        before=copied("runs/reward/model", "runs/quickstart/reward/model"),
    ),
    Line("tigerjax reward train configs/quickstart_reward.py --preferences pairs.jsonl --calibration-set sft.jsonl"),
    Line("tigerjax reward score configs/quickstart_reward.py --input runs/candidates/candidates.jsonl --out scored"),
    Line("tigerjax reward calibrate configs/quickstart_reward.py --calibration-set sft.jsonl"),
    Line(
        "tigerjax evaluate configs/tiger_7b_sft.py --tasks mmlu ceval --data-dir benchmarks_data --chat",
        before=benchmark_files,
    ),
    Line(
        "tigerjax evaluate compare runs/base/evaluation runs/sft/evaluation --out compared.html",
        before=lambda: (
            [copied("runs/tiger_7b_sft/evaluation", f"runs/{run}/evaluation")() for run in ("base", "sft")] and None
        ),
    ),
    Line("tigerjax report runs/quickstart", before=quickstart_report),
    Line("tigerjax convert to-hf runs/sft hf_model --tokenizer tok --dtype bfloat16 --verify"),
]
STUDIO, HERE = "http://127.0.0.1:8080", f"http://127.0.0.1:{PORT}"
STAND_IN_SERVES = "a stand-in for Label Studio: tests/align/people/test_studio.py has the real one"
FEW = "few short answers, so many to rank that people are asked at all, and a gate that chance does not close"
ROUNDS = [
    Line(
        "tigerjax align init configs/quickstart_rejection_sampled.py --out runs/align --sft sft.jsonl --models runs/sft"
        " --reward runs/reward/model --evaluation-set dev.jsonl",
        with_={
            "--evaluation-set dev.jsonl": "--evaluation-set dev.jsonl --n 4 --max-new-tokens 8"
            " --align.rank-fraction 0.4 --align.edit-fraction 0.2 --align.min-win-rate 0"
        },
        why=FEW,
    ),
    Line("tigerjax align run runs/align --rounds 2", 4, why="it waits for people"),
    Line("tigerjax align status runs/align"),
    Line("tigerjax align set runs/align --optim.peak-lr 1e-5"),
    Line("tigerjax align set runs/align --align.allow-partial"),
    *(Line(f"tigerjax align {step} runs/align") for step in ("prompts", "sample", "score", "queue")),
    Line("tigerjax align import runs/align --labels answers.jsonl", before=annotate),
    Line("tigerjax align import runs/align --labels runs/talk/labels.jsonl answers.jsonl", before=talk),
    *(Line(f"tigerjax align {step} runs/align") for step in ("rank", "mix", "train", "gate")),
    Line(
        "tigerjax reward train configs/quickstart_reward.py --preferences pairs.jsonl"
        " runs/align/rounds/01/rank/preferences.jsonl --calibration-set sft.jsonl --init runs/align/rounds/01/train/run"
        " --out runs/reward2"
    ),
    Line("tigerjax align set runs/align --reward runs/reward2/model"),
    Line("tigerjax align set runs/align --reward reward.toml", before=reward_file),
    Line("tigerjax align set runs/align --align.allow-partial --reward runs/reward2/model"),
    Line(
        "tigerjax align set runs/align --max-new-tokens 256 --again",
        with_={"256": "9"},
        why="rows of the small world have 96 tokens",
    ),
    Line(
        f"tigerjax align set runs/align --align.people {' '.join(PEOPLE)} --gold-questions gold.jsonl",
        before=gold_questions,
    ),
    Line(
        f"tigerjax align people push runs/align --url {STUDIO} --token-file token",
        with_={STUDIO: HERE},
        why=STAND_IN_SERVES,
        before=lambda: (team_queue(), label_studio()) and None,
    ),
    Line(
        f"tigerjax align people pull runs/align --url {STUDIO} --token-file token --every-s 600",
        with_={STUDIO: HERE, " --every-s 600": ""},
        why=STAND_IN_SERVES,
    ),
    Line("tigerjax align import runs/align --labels ann.jsonl", before=team_labels),
    Line("tigerjax align people status runs/align"),
    Line("tigerjax align people export runs/align --out labels.csv"),
    Line("tigerjax report runs/align"),
]
LAUNCHES = [
    Line("launch/run.sh --list"),
    Line(
        "IMAGE=us-docker.pkg.dev/my-project/tigerjax/train:1 BUCKET=my-bucket TPU=v5p:4x4x4"
        " launch/run.sh --dry-run gke configs/tiger_70b_pretrain.py --mesh.fsdp 64 --global-batch-size 256"
    ),
    Line(
        "IMAGE=us-docker.pkg.dev/my-project/tigerjax/train:1 BUCKET=my-bucket TPU=v5e:2x4 KEYS=my-keys"
        " launch/run.sh --dry-run gke-serve runs/tiger_7b_sft --tokenizer /gcs/tokenizer --mesh.tensor 8"
    ),
    Line(
        """.venv/bin/python -c "from tigerjax import config; print(*config.dump(config.load('configs/NAME.py')),"""
        """ sep='\\n')" > tests/golden/NAME.txt""",
        with_={"NAME": "llama2_7b"},
        why="NAME is the reader's",
    ),
]
LABEL_STUDIO = "tests/align/people/test_label_studio_command.py (slow) installs that server and works with it"
ELSEWHERE = {
    "git clone URL tigerjax && cd tigerjax": "the address is that of the reader's fork",
    "git clone <this repository> && cd tigerjax": "the same",
    "make quickstart": "tests/test_makefile.py; the command behind it is the next line's",
    "tigerjax quickstart --out runs/quickstart --seed 0": "tests/quickstart/test_stages.py (slow) runs it as it stands",
    "tigerjax data plan --input zh.jsonl en.jsonl --stages clean exact near against-sft cache --sft sft.jsonl"
    " --tokenizer tok --training plan.json": "a minute; tests/plan/test_data_plan.py has a stage and the training plan",
    "make test": "it would run this test",
    "source .venv/bin/activate": "`make venv` makes that folder; these tests run inside it",
    "python -m venv label-studio-env": LABEL_STUDIO,
    "label-studio-env/bin/pip install label-studio==1.23.2": LABEL_STUDIO,
    "label-studio-env/bin/label-studio start --no-browser --internal-host 127.0.0.1 --port 8080"
    " --username ann@example.org --password SECRET": LABEL_STUDIO,
}
"""Lines that no story has, and why."""
