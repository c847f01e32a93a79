"""An alignment as a folder: what `align init` wrote down, and its rounds with real models.

    DIR/align.json              everything that the rounds need to know
    DIR/rounds/01/candidate/    which of the candidate models the round starts from, with the figures of all
    DIR/rounds/01/…             the steps of tigerjax.align.rounds
    DIR/labels/01/              label files that people delivered, in the order in which they came
    DIR/answers/HASH/           greedy answers of a model to the held-out questions
    DIR/cache/01/               training rows of a round

Round 1 starts from the SFT set and the best of the candidate models that were named. A later round starts from the
set that the last accepted round mixed, and its candidates are those named and the models of all accepted rounds.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigerjax import config as config_lib
from tigerjax.align import rounds
from tigerjax.align.config import AlignConfig
from tigerjax.align.people import labels as labels_lib
from tigerjax.align.steps import STEPS, shared_stage
from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, paths
from tigerjax.files.jsonl import read_jsonl
from tigerjax.files.progress import Progress

FILE = "align.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What does not change between the rounds; paths are absolute."""

    config: str
    """Config file of the SFT runs."""
    overrides: list[str]
    align: dict[str, Any]
    """Fields of AlignConfig."""
    sampling: dict[str, Any]
    """n, temperature, top_p, top_k, max_new_tokens."""
    sft: str
    candidates: list[str]
    """Chat models, the oldest first; a round starts from the best."""
    reward_model: str
    score_rows: int
    questions: str
    """Held-out questions with their answers: the metric of candidates and gate."""
    gold: list[str]
    safety: str | None
    """File of strings that no winner may contain, one a line."""
    exclude: str | None
    """File of prompt ids that may not be drawn, one a line: what an evaluation set contains."""


def write(folder: Path, plan: Plan) -> None:
    """DIR/align.json. Refuses a folder that holds another plan: its rounds would be of two."""
    old = read(folder) if (folder / FILE).is_file() else None
    if old is not None and old != plan:
        changed = [f.name for f in dataclasses.fields(plan) if getattr(old, f.name) != getattr(plan, f.name)]
        raise ConfigError(f"{folder / FILE} holds another plan ({', '.join(changed)} differ); give another --out")
    for name in ("sft", "reward_model", "questions", "safety", "exclude"):
        if (path := getattr(plan, name)) is not None and not paths.of(path).exists():
            raise DataError(f"{path}: {name} of the alignment does not exist")
    for path in (*plan.candidates, *plan.gold):
        if not paths.of(path).exists():
            raise DataError(f"{path} does not exist; give existing candidate models and gold files")
    if not plan.candidates:
        raise ConfigError("an alignment starts from a chat model; give --candidates")
    folder.mkdir(parents=True, exist_ok=True)
    manifest.write_json(folder / FILE, dataclasses.asdict(plan))


def read(folder: Path) -> Plan:
    """The plan of DIR/align.json."""
    path = folder / FILE
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; `tigerjax align init CONFIG --out {folder} …` writes it")
    try:
        return Plan(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: not the plan of an alignment ({error}); write it again") from error


class Project:
    """The rounds of a plan, with the config of its SFT runs."""

    def __init__(self, folder: Path, plan: Plan, run: RunConfig, *, progress: Progress | None = None):
        self.folder, self.plan, self.run, self.progress = folder, plan, run, progress
        self.align = AlignConfig(**plan.align)
        self.rounds = folder / "rounds"
        self._kept: tuple[Path, Any] | None = None

    def under_way(self) -> int:
        """The first round without a gate."""
        index = 1
        while manifest.read(self.rounds / f"{index:02d}" / "gate") is not None:
            index += 1
        return index

    def until(self, index: int, step: str) -> None:
        """Runs round `index` up to `step`. Blocked, GateFailed: see rounds.run_round."""
        sft, current = self._start(index)
        reward_model, exclude = paths.of(self.plan.reward_model), set(_lines(self.plan.exclude))
        work = self._work(index, current)
        rounds.run_steps(
            self.rounds,
            index,
            self.align,
            work,
            until=step,
            sft=sft,
            current=current,
            reward_model=reward_model,
            exclude=exclude,
        )

    def require(self, index: int, step: str, commands: dict[str, str]) -> None:
        """ConfigError unless every step before `step` is done; `commands` names the command of each."""
        for before in STEPS[: STEPS.index(step)]:
            if manifest.read(self.rounds / f"{index:02d}" / before) is None:
                command = f"tigerjax align {commands[before]} {self.folder}"
                raise ConfigError(f"round {index:02d}: step {before} is not done; run `{command}` first")

    def ended(self, index: int) -> rounds.Round:
        """How round `index` ended."""
        return rounds.ended(self.rounds, index, current=self._chosen(index))

    def deliver(self, index: int, files: Sequence[Path]) -> int:
        """Checks label files against the queue and keeps them below labels/; returns how many are new.

        Raises DataError with every wrong line, and keeps nothing then.
        """
        queue = self.rounds / f"{index:02d}" / "queue"
        labels_lib.import_labels(
            [record for _, record in read_jsonl(queue / "queue.jsonl")],
            [record for _, record in read_jsonl(queue / "key.jsonl")],
            files,
            max_tokens=self.run.data.seq_len,
            count_tokens=self._count_tokens,
            allow_partial=True,
        )
        place = self.folder / "labels" / f"{index:02d}"
        place.mkdir(parents=True, exist_ok=True)
        known = {manifest.sha256(path) for path in self._delivered(index)}
        fresh = [path for path in files if manifest.sha256(path) not in known]
        for path in fresh:
            # Numbered: of two lines of one annotator the newer one counts.
            suffix = ".json" if path.suffix == ".json" else ".jsonl"
            with paths.writing(place / f"{len(self._delivered(index)) + 1:04d}-{path.stem}{suffix}") as copy:
                copy.write(path.read_bytes())
        return len(fresh)

    def _delivered(self, index: int) -> list[Path]:
        """Label files of a round that passed their check, the oldest first."""
        place = self.folder / "labels" / f"{index:02d}"
        return [place / name for name in paths.names(place) if name.endswith((".jsonl", ".json"))]

    def _start(self, index: int) -> tuple[Path, Path]:
        """(SFT set, current model) of a round."""
        sft, models = paths.of(self.plan.sft), [paths.of(path) for path in self.plan.candidates]
        for before in range(1, index):
            ended = self.ended(before)
            if ended.accepted:
                sft, models = ended.sft, [*models, ended.checkpoint]
        place = self.rounds / f"{index:02d}" / "candidate"
        inputs = [*models, paths.of(self.plan.questions)]
        with shared_stage(place, name="align candidate", computes=True, config={}, inputs=inputs) as run:
            if not run.done:
                listed = []
                for age, path in enumerate(models):
                    metric = self.accuracy(path)["overall"]
                    # Every run counts its steps from 0, so the newest is the last in the list.
                    listed.append(
                        {"path": str(path), "sha256": self._model(path).sha256, "metric": metric, "step": age}
                    )
                chosen = rounds.choose_candidate(listed)
                manifest.write_json(run.tmp / "candidate.json", {"chosen": chosen, "candidates": listed})
        return sft, self._chosen(index)

    def _chosen(self, index: int) -> Path:
        path = self.rounds / f"{index:02d}" / "candidate" / "candidate.json"
        return paths.of(json.loads(path.read_text(encoding="utf-8"))["chosen"]["path"])

    def _work(self, index: int, current: Path) -> rounds.Work:
        config = self._sft_config(index, current)
        return rounds.Work(
            sample=lambda prompts, place: self._sample(index, current, prompts, place),
            score=lambda items: self._scorer(items),
            labels=lambda queue: self._delivered(index),
            train=lambda sft, place: _train(config, sft, place, self.progress),
            evaluate=self.accuracy,
            held_out=lambda model: [
                (r["messages"], r["candidates"][0]["text"], r["candidates"][0]["finish"]) for r in self._answers(model)
            ],
            count_tokens=self._count_tokens,
            max_tokens=self.run.data.seq_len,
            settings={"sample": self.plan.sampling, "train": config_lib.dump(self.run)},
            safety=_lines(self.plan.safety),
            gold=[paths.of(path) for path in self.plan.gold],
        )

    def _sft_config(self, index: int, current: Path) -> RunConfig:
        """The plan's config, from the current model, its rows below this folder."""
        name, cache = f"align_round_{index:02d}", str(self.folder / "cache" / f"{index:02d}")
        return dataclasses.replace(
            self.run,
            name=name,
            data=dataclasses.replace(self.run.data, mixture=name, modules=(), cache_dir=cache),
            checkpoint=dataclasses.replace(self.run.checkpoint, init_from=str(current)),
        )

    def _sample(self, index: int, model: Path, prompts: rounds.Records, place: Path) -> rounds.Records:
        from tigerjax.sample.engine import SamplingConfig
        from tigerjax.sample.run import CANDIDATES

        sampling = SamplingConfig(**self.plan.sampling, context=self.run.data.seq_len)
        self._sample_to(place, model, prompts, sampling, index)
        return [record for _, record in read_jsonl(place / CANDIDATES)]

    def _sample_to(self, place: Path, path: Path, prompts: Sequence[Any], sampling: Any, index: int) -> None:
        from tigerjax.mesh import row_ways
        from tigerjax.sample.engine import BATCH_PROMPTS, BATCH_ROWS
        from tigerjax.sample.run import sample_prompts

        model, ways = self._model(path), row_ways(self._mesh)
        sample_prompts(
            (model.config, model.weights),
            self._tokenizer,
            prompts,
            place,
            sampling=sampling,
            seed=self.align.seed,
            round=index,
            model_sha=model.sha256,
            compute=self.run.compute,
            mesh=self._mesh,
            batch_prompts=-(-BATCH_PROMPTS // ways) * ways,
            batch_rows=-(-BATCH_ROWS // ways) * ways,
            progress=self.progress and self.progress("sampled", "prompts"),
        )

    def _answers(self, path: Path) -> rounds.Records:
        """Greedy answers to the held-out questions, in their order; a question that does not fit is a DataError."""
        from tigerjax.evaluate import questions
        from tigerjax.sample.engine import SamplingConfig
        from tigerjax.sample.run import CANDIDATES

        asked = [
            {"prompt_id": q.id, "messages": [{"role": "user", "content": q.prompt}]}
            for q in questions.load(self.plan.questions)
        ]
        longest = self.plan.sampling["max_new_tokens"]
        sampling = SamplingConfig(n=1, temperature=0.0, max_new_tokens=longest, context=self.run.data.seq_len)
        what = [self._model(path).sha256, asked, dataclasses.asdict(sampling)]
        place = self.folder / "answers" / hashlib.sha256(manifest.canonical(what)).hexdigest()[:16]
        self._sample_to(place, path, asked, sampling, 0)
        records = [record for _, record in read_jsonl(place / CANDIDATES)]
        if len(records) != len(asked):
            raise DataError(
                f"{self.plan.questions}: {len(asked) - len(records)} questions do not fit data.seq_len="
                f"{self.run.data.seq_len}; they are in {place / 'skipped.jsonl'}: remove them or raise it"
            )
        return records

    def accuracy(self, path: Path) -> dict[str, Any]:
        """Figures of evaluate.questions.accuracy of a checkpoint."""
        from tigerjax.evaluate import questions

        texts = {r["prompt_id"]: r["candidates"][0]["text"] for r in self._answers(path)}
        return questions.accuracy(questions.load(self.plan.questions), texts)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from tigerjax.tokenizer.load import Tokenizer

        return Tokenizer(self.run.data.tokenizer)

    @functools.cached_property
    def _scorer(self) -> Any:
        from tigerjax.align.reward import load_scorer

        return load_scorer(
            self.plan.reward_model,
            self._tokenizer,
            compute=self.run.compute,
            seq_len=self.run.data.seq_len,
            rows=self.plan.score_rows,
            mesh=self._mesh,
            progress=self.progress,
        )

    @functools.cached_property
    def _mesh(self) -> Any:
        from tigerjax.mesh import mesh_of_several

        return mesh_of_several(self.run)

    def _model(self, path: Path) -> Any:
        """A chat model that fits the tokenizer; one is kept, as a step asks for the same several times."""
        from tigerjax.checkpoint.stored import load_placed
        from tigerjax.model import families

        if self._kept is None or self._kept[0] != path:
            model = load_placed(path, self._mesh, self.run.compute.dtype)
            if families.is_reward(model.kind) or model.tokenizer_sha256 not in (None, self._tokenizer.sha256):
                raise ConfigError(f"{path}: a candidate is a language model of tokenizer {self.run.data.tokenizer}")
            self._kept = path, model
        return self._kept[1]

    def _count_tokens(self, messages: list[dict[str, str]]) -> int:
        from tigerjax.tokenizer.chat import encode_chat

        return len(encode_chat(self._tokenizer, messages)[0])


def _train(config: RunConfig, sft: Path, place: Path, progress: Progress | None) -> None:
    """An SFT run on one file, in the folder `place`; an interrupted one goes on."""
    from tigerjax.data import mixture
    from tigerjax.mesh import host_rows, run_mesh
    from tigerjax.train.loop import train

    mesh = run_mesh(config)
    mixture.sft(config.data.mixture, tokenizer=config.data.tokenizer, examples=mixture.Source(str(sft)))
    total_rows = config.batch_rows * config.optim.total_steps
    loader = mixture.open_loader(
        config.data,
        batch_rows=config.batch_rows,
        seed=config.seed,
        mine=host_rows(mesh, config.batch_rows),
        total_rows=total_rows,
        progress=progress,
    )
    train(config, loader, run_dir=place, mesh=mesh)


def _lines(path: str | None) -> list[str]:
    """Non-empty lines of a UTF-8 file; none without a file."""
    text = "" if path is None else paths.of(path).read_bytes().decode("utf-8")
    return [line for line in text.splitlines() if line.strip()]
