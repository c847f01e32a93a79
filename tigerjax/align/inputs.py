"""Opens every input of an alignment before its first step: a wrong one is found now, and not after all sampling."""

from collections.abc import Iterable
from typing import Any

from tigerjax import records
from tigerjax.align import calibration
from tigerjax.align import prompts as prompts_lib
from tigerjax.align.answers import Answer
from tigerjax.align.config import AlignConfig
from tigerjax.align.people import gold
from tigerjax.align.people.queue import share
from tigerjax.align.rewards import given
from tigerjax.align.rewards import reward as rewards
from tigerjax.align.rewards.given import Given
from tigerjax.align.settings import AlignSettings, read_lines
from tigerjax.checkpoint.loaded import check_fits, check_sizes
from tigerjax.checkpoint.stored import open_whole
from tigerjax.config import PreferenceConfig, RunConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.evaluate import questions
from tigerjax.files import paths
from tigerjax.processes import hosts
from tigerjax.terminal import printable
from tigerjax.tokenizer.chat import encode_prompt
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.train.objective import refuse_rewards


def check(settings: AlignSettings, run: RunConfig, *, ask_judge: bool) -> None:
    """Reads all files and every byte of each model's weights, and what each model says of itself.

    A reward that is a function is called for one answer of the SFT set, and with `ask_judge` a judge is asked about it.

    DataError for a file that is not there or not of its kind. ConfigError for a model of another kind, tokenizer or
    size, and for a reward model that is not calibrated. JudgeError for a judge that does not answer.
    """
    refuse_rewards(run)
    for name in ("evaluation_set", "safety", "exclude"):
        if (path := getattr(settings, name)) is not None and not paths.of(path).exists():
            raise DataError(f"{path}: {name} of the alignment does not exist; correct the path")
    for path in (*settings.sft, *settings.models, *settings.gold):
        if not paths.of(path).exists():
            raise DataError(f"{path} does not exist; give existing SFT files, candidate models and gold files")
    if not settings.models:
        raise ConfigError("an alignment starts from a chat model; give --models")
    given = run.objective.preferences if isinstance(run.objective, PreferenceConfig) else ()
    preferences = records.expand(given) if given else []
    tokenizer = Tokenizer(run.data.tokenizer)
    for path in settings.models:
        model = open_whole(path)
        check_fits(model, tokenizer, where=path)
        check_sizes(model, run.model, where=path)
    _check_questions(settings.evaluation_set, tokenizer, run.data.seq_len)
    sample = _check_sft(settings)
    check_reward(settings.reward, tokenizer, sample, ask_judge=ask_judge)
    if settings.gold_questions is not None:
        gold.read(settings.gold_questions)
    _check_preferences([paths.of(path) for path in settings.gold], "the next reward model")
    _check_preferences(preferences, "training")
    for name in ("safety", "exclude"):
        if (path := getattr(settings, name)) is not None and not read_lines(path):
            hosts.say(f"tigerjax: note: {path}: {name} of the alignment has no entry, so it changes nothing")


def _check_preferences(files: Iterable[Any], of: str) -> None:
    """Reads files of preferences; says which records are left out `of` what."""
    for path in files:
        for number, record in records.read(path):
            try:
                records.as_preference(record, f"{path}:{number}")
            except records.Unusable as error:
                hosts.say(f"tigerjax: note: {printable(error)}; left out of {of}")


def check_reward(text: str, tokenizer: Tokenizer, sample: Answer | None, *, ask_judge: bool) -> Given:
    """The reward that is called `text`, each part of it opened as `rewards.reward.check` says."""
    of = given.read(text)
    rewards.check(of, lambda path: _check_model(path, tokenizer), sample, ask=ask_judge)
    return of


def say_not_asked(reward: str) -> None:
    """A line for each judge of a reward, which is asked later."""
    for name, part in given.read(reward).parts.items():
        if part.judge is not None:
            hosts.say(
                f"judge {printable(name)}: {part.judge.url} will be asked when the round is scored; --ask-judge asks it"
                " once now"
            )


def _check_model(path: str, tokenizer: Tokenizer) -> None:
    """ConfigError unless a calibrated reward model of this tokenizer is at `path`; DataError where no folder is."""
    calibration.refuse_foreign(path)
    model = open_whole(path)
    check_fits(model, tokenizer, where=path, reward=True)
    calibration.check(model.extra, path)


def _check_questions(path: str, tokenizer: Tokenizer, seq_len: int) -> None:
    """Reads the held-out questions, and sees that each leaves room for an answer."""
    for prompt in questions.prompts(questions.load(path)):
        if (length := len(encode_prompt(tokenizer, prompt["messages"]))) >= seq_len:
            raise DataError(
                f"{path}: question {prompt['prompt_id']!r} has {length} tokens, which leaves no room for an answer in"
                f" data.seq_len={seq_len}; remove it or raise data.seq_len"
            )


def _check_sft(settings: AlignSettings) -> Answer:
    """Reads the SFT set, and sees that a round can draw its prompts from it. Gives the answer to one of them."""
    align, excluded = AlignConfig(**settings.align), read_lines(settings.exclude)
    examples = list(records.sft_examples(settings.sft))
    drawn = prompts_lib.select(
        examples,
        fraction=align.prompt_fraction,
        seed=align.seed,
        round_index=1,
        exclude=set(excluded),
        allow_fraction=align.allow_fraction,
    )
    total = len(drawn.prompts)
    if align.edit_within_ranked and share(align.edit_fraction, total) > share(align.rank_fraction, total):
        raise ConfigError(
            f"edit_fraction={align.edit_fraction} exceeds rank_fraction={align.rank_fraction}; lower it, or set"
            " align.edit_within_ranked off"
        )
    if unknown := sorted(set(excluded) - {example["id"] for example in examples}):
        hosts.say(
            f"tigerjax: note: {len(unknown)} of {len(set(excluded))} ids in {settings.exclude} are not in"
            f" {', '.join(settings.sft)}, such as {printable(unknown[0])!r}"
        )
    first = drawn.prompts[0]
    return Answer(first["messages"], first["reference"], "stop", first)
