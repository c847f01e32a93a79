"""An alignment as a folder: the settings that `tigerjax align init` wrote, and rounds with real models.

    DIR/align.json              the settings
    DIR/rounds/01/candidate/    the candidate model that the round starts from, with the figures of all candidates
    DIR/rounds/01/…             the steps of tigerjax.align.rounds
    DIR/labels/01/              label files that people delivered, numbered in the order in which they came
    DIR/answers/HASH/           greedy answers of a model to the held-out questions
    DIR/cache/01/               the SFT set of a round as training rows

Round 1 starts from the SFT set and the best candidate model of the settings. A later round starts from the SFT set
that the last accepted round mixed. Its candidates are those of the settings and the models of all accepted rounds.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigerjax import config as config_lib
from tigerjax.align import rounds
from tigerjax.align.config import AlignConfig
from tigerjax.align.people.delivery import Delivery, delivered
from tigerjax.align.rewards import given
from tigerjax.align.rewards.reward import Reward, Uses, uses
from tigerjax.align.settings import AlignSettings, question_files, read_lines
from tigerjax.align.steps import STEPS, shared_stage, under_way
from tigerjax.config import PreferenceConfig, RunConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, own, paths
from tigerjax.files.jsonl import read_jsonl
from tigerjax.files.progress import Progress


class Project:
    """The rounds in the folder of an alignment; `run` is the config of the training that ends each of them."""

    def __init__(self, folder: Path, settings: AlignSettings, run: RunConfig, *, progress: Progress | None = None):
        if run.mesh.least_data is not None:
            raise ConfigError(
                f"mesh.least_data={run.mesh.least_data}: the steps of a round go on with the mesh that they began with;"
                " leave it at None"
            )
        self.folder, self.settings, self.run, self.progress = folder, settings, run, progress
        self.align = AlignConfig(**settings.align)
        self.rounds = folder / "rounds"
        self._last_model: tuple[Path, Any] | None = None

    def under_way(self) -> int:
        """The first round without a gate."""
        return under_way(self.rounds)

    def until(self, index: int, step: str) -> None:
        """Runs round `index` up to and including `step`. It raises what rounds.run_round does.

        A round that has its gate is over: settings that were changed since then are those of later rounds.
        """
        if manifest.read(self.rounds / f"{index:02d}" / "gate") is not None:
            return
        sft, current = self._start(index)
        inputs = rounds.RoundInputs(
            sft=sft,
            current=current,
            reward=self._uses.inputs,
            exclude=set(read_lines(self.settings.exclude)),
            safety=read_lines(self.settings.safety),
            gold=[paths.of(path) for path in self.settings.gold],
            gold_questions=paths.of(asked) if (asked := self.settings.gold_questions) else None,
            questions=question_files(self.settings.evaluation_set),
        )
        rounds.run_steps(self.rounds, index, self.align, self._functions(index, current), inputs, until=step)

    def require(self, index: int, step: str, commands: dict[str, str]) -> None:
        """ConfigError unless every step before `step` is done. `commands` maps steps to the names of their commands."""
        for before in STEPS[: STEPS.index(step)]:
            if manifest.read(self.rounds / f"{index:02d}" / before) is None:
                command = f"tigerjax align {commands[before]} {self.folder}"
                raise ConfigError(f"round {index:02d}: step {before} is not done; run `{command}` first")

    def ended(self, index: int) -> rounds.Round:
        """How round `index` ended."""
        return rounds.ended(self.rounds, index, current=self._chosen(index))

    @functools.cached_property
    def delivery(self) -> Delivery:
        """What takes label files."""
        return Delivery(self.folder, self.align, max_tokens=self.run.data.seq_len, count_tokens=self._count_tokens)

    def _start(self, index: int) -> tuple[list[Path], Path]:
        """(SFT set, current model) of a round; evaluates the candidate models when that has not been done."""
        sft, models = ([paths.of(path) for path in given] for given in (self.settings.sft, self.settings.models))
        for before in range(1, index):
            ended = self.ended(before)
            if ended.accepted:
                sft, models = [ended.sft], [*models, ended.checkpoint]
        place = self.rounds / f"{index:02d}" / "candidate"
        inputs = [*models, *question_files(self.settings.evaluation_set)]
        with shared_stage(
            place, name="align candidate", computes=True, by_content=True, config=self._greedy(), inputs=inputs
        ) as run:
            if not run.done:
                listed = []
                for age, path in enumerate(models):
                    metric = self._accuracy(self._answers(path))["overall"]
                    # Not the model's own step: every run counts its steps from 0. The newest is the last in the list.
                    listed.append(
                        {"path": str(path), "sha256": self._model(path).sha256, "metric": metric, "step": age}
                    )
                chosen = rounds.choose_candidate(listed)
                manifest.write_json(run.tmp / "candidate.json", {"chosen": chosen, "candidates": listed})
        return sft, self._chosen(index)

    def _chosen(self, index: int) -> Path:
        path = self.rounds / f"{index:02d}" / "candidate" / "candidate.json"
        with own.fields(path, manifest.AGAIN):
            return paths.of(own.read_object(path, manifest.AGAIN)["chosen"]["path"])

    def _functions(self, index: int, current: Path) -> rounds.RoundFunctions:
        config = self._sft_config(index, current)
        rewarded = {"reward": self._uses.settings} if self._uses.settings else {}
        return rounds.RoundFunctions(
            sample=lambda prompts, work: self._sample(index, current, prompts, work),
            sample_more=lambda more, work, prompts: self._sample(index, current, prompts, work, more),
            score=lambda answers: self._reward(answers),  # reward models are loaded when a step first scores
            labels=lambda queue: delivered(self.folder, index),
            train=lambda file, work: _train(config, file, work, self.progress),
            trains_on="pairs" if isinstance(config.objective, PreferenceConfig) else "winners",
            answers=self._answers,
            accuracy=self._accuracy,
            count_tokens=self._count_tokens,
            max_tokens=self.run.data.seq_len,
            settings={
                "sample": {**self._reading(), **self.settings.sampling},
                "score": {**self._reading(), **rewarded},
                "labels": {**self._reading(), "compute": None},  # it counts tokens and computes nothing
                "train": config_lib.dump(dataclasses.replace(self.run, compute=config_lib.decisive(self.run.compute))),
                "gate": {**self._greedy(), **rewarded},
            },
        )

    def _reading(self) -> dict[str, Any]:
        """What decides how any model reads a text."""
        compute = config_lib.stored_fields(config_lib.decisive(self.run.compute))
        return {"tokenizer": self._tokenizer.encoding_sha256, "seq_len": self.run.data.seq_len, "compute": compute}

    def _greedy(self) -> dict[str, Any]:
        """What decides the greedy answers to the held-out questions."""
        return {**self._reading(), "max_new_tokens": self.settings.sampling["max_new_tokens"]}

    def _sft_config(self, index: int, current: Path) -> RunConfig:
        """The config of a round's training: it starts from the current model, and its cache lies below DIR/cache."""
        name, cache = f"align_round_{index:02d}", str(self.folder / "cache" / f"{index:02d}")
        return dataclasses.replace(
            self.run,
            name=name,
            data=dataclasses.replace(self.run.data, mixture=name, modules=(), cache_dir=cache),
            checkpoint=dataclasses.replace(self.run.checkpoint, init_from=str(current)),
        )

    def _sample(self, index: int, model: Path, prompts: rounds.Records, place: Path, more: int = 0) -> rounds.Records:
        from tigerjax.sample.engine import SamplingConfig
        from tigerjax.sample.folder import CANDIDATES

        context, seed = self.run.data.seq_len, self.align.seed
        given = self.settings.sampling | {"n": self.settings.sampling["n"] + more}
        sampling = SamplingConfig(**given, context=context, seed=seed, round=index)
        self._sample_to(place, model, prompts, sampling)
        return [record for _, record in read_jsonl(place / CANDIDATES)]

    def _sample_to(self, place: Path, path: Path, prompts: Sequence[Any], sampling: Any) -> None:
        from tigerjax.sample.engine import Batching
        from tigerjax.sample.folder import sample_prompts

        progress = self.progress and self.progress("sampled", "prompts")
        batching = Batching().for_mesh(self._mesh)
        sample_prompts(self._model(path), prompts, place, sampling, batching=batching, progress=progress)

    def _answers(self, path: Path) -> rounds.Records:
        """Sampler records with greedy answers to the held-out questions, in their order.

        DataError when a question does not fit the context.
        """
        from tigerjax.evaluate import questions
        from tigerjax.sample.engine import SamplingConfig
        from tigerjax.sample.folder import CANDIDATES

        asked = questions.prompts(questions.load(self.settings.evaluation_set))
        longest, context = self.settings.sampling["max_new_tokens"], self.run.data.seq_len
        sampling = SamplingConfig(n=1, temperature=0.0, max_new_tokens=longest, context=context, seed=self.align.seed)
        what = [self._model(path).sha256, asked, dataclasses.asdict(sampling)]
        place = self.folder / "answers" / hashlib.sha256(manifest.canonical(what)).hexdigest()[:16]
        self._sample_to(place, path, asked, sampling)
        records = [record for _, record in read_jsonl(place / CANDIDATES)]
        if len(records) != len(asked):
            raise DataError(
                f"{self.settings.evaluation_set}: {len(asked) - len(records)} questions do not fit data.seq_len="
                f"{self.run.data.seq_len}; they are in {place / 'skipped.jsonl'}: remove them or raise it"
            )
        return records

    def _accuracy(self, records: rounds.Records) -> dict[str, Any]:
        """Figures of evaluate.questions.accuracy of the records of `_answers`."""
        from tigerjax.evaluate import questions

        return questions.accuracy(questions.load(self.settings.evaluation_set), questions.first_texts(records))

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from tigerjax.tokenizer.load import Tokenizer

        return Tokenizer(self.run.data.tokenizer)

    @functools.cached_property
    def _uses(self) -> Uses:
        return uses(given.read(self.settings.reward))

    @functools.cached_property
    def _reward(self) -> Reward:
        return Reward(given.read(self.settings.reward), self._scorer, progress=self.progress)

    def _scorer(self, path: str) -> Any:
        from tigerjax.align.reward import Scorer
        from tigerjax.checkpoint.loaded import load

        model = load(path, self._tokenizer, compute=self.run.compute, mesh=self._mesh, reward=True)
        return Scorer(model, seq_len=self.run.data.seq_len, rows=self.settings.score_batch_size, progress=self.progress)

    @functools.cached_property
    def _mesh(self) -> Any:
        from tigerjax.mesh import mesh_of_several

        return mesh_of_several(self.run.mesh)

    def _model(self, path: Path) -> Any:
        """A chat model, checked to be of the config's tokenizer.

        The last one stays loaded, because a step asks for the same model several times.
        """
        from tigerjax.checkpoint.loaded import load

        if self._last_model is None or self._last_model[0] != path:
            self._last_model = path, load(path, self._tokenizer, compute=self.run.compute, mesh=self._mesh)
        return self._last_model[1]

    def _count_tokens(self, messages: list[dict[str, str]]) -> int:
        from tigerjax.tokenizer.chat import encode_chat

        return len(encode_chat(self._tokenizer, messages)[0])


def _train(config: RunConfig, file: Path, place: Path, progress: Progress | None) -> None:
    """Trains in the folder `place`, on an SFT file or on pairs as the config says; an interrupted run resumes."""
    from tigerjax.evaluate.asked import asked

    if isinstance(settings := config.objective, PreferenceConfig):
        from tigerjax.align import preference

        more = dataclasses.replace(settings, preferences=(str(file), *settings.preferences))
        run = dataclasses.replace(config, objective=more)
        preference.train(run, run_dir=place, ask=asked(config), progress=progress)
        return
    from tigerjax.data import mixture
    from tigerjax.train.loop import train_on_mixture

    if config.data.phases:
        raise ConfigError(
            f"data.phases={config.data.phases}: a round trains on its mixed set only; leave data.phases out"
        )
    mixture.sft(config.data.mixture, tokenizer=config.data.tokenizer, examples=mixture.Source(str(file)))
    train_on_mixture(config, run_dir=place, ask=asked(config), progress=progress)
