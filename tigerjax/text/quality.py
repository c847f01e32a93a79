"""How good a text is, from 0 to 1: by a linear model that is trained on the user's own examples, or his own function.

The features of a text are its runs of 2 and 3 characters, hashed into SLOTS slots; each that occurs counts once, and
all together have length 1. The model is a logistic regression, trained by AdaGrad (Duchi et al. 2011) over the examples
in the order of a hash of their ids, the two kinds with equal weight in all. Nothing is drawn, so the same examples give
the same model. A share of them, by the same hash, is held out and measured.

A scorer of one's own is MODULE:FUNCTION, which takes a list of texts and returns a number from 0 to 1 for each.
"""

import functools
import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax import records
from tigerjax.errors import USERS, ConfigError, DataError, TigerjaxError, line_in, of_user
from tigerjax.files import manifest, paths
from tigerjax.files.foreign import shown
from tigerjax.records import user_code
from tigerjax.stages import parts
from tigerjax.text.grams import run_hashes

SLOTS = 1 << 18
RUNS = (2, 3)
"""Characters of a feature."""
CHARACTERS = 5000
"""Of a text that are looked at, from its beginning."""
EPOCHS, RATE = 5, 0.5
"""Passes over the examples, and the step of AdaGrad [our choice]."""
HELD_OUT = 0.2
LEAST_EXAMPLES = 10
"""Of each kind, on both sides."""
VERSION = 1
MODEL = "model.npy"
DIGITS = 4
Scorer = Callable[[Sequence[str]], Sequence[float]]


def features(text: str) -> np.ndarray:
    """The different slots of a text, sorted."""
    codes = np.frombuffer(text[:CHARACTERS].encode("utf-32-le", "surrogatepass"), "<u4")
    hashes = [run_hashes(codes, n) for n in RUNS]
    return np.unique(np.concatenate(hashes) % np.uint64(SLOTS)).astype(np.int32)


def _logistic(value: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(value, -30, 30))))


def _score(model: np.ndarray, slots: np.ndarray) -> float:
    """The score of a text; the last value of the model is its bias."""
    return _logistic(model[slots].sum() / max(1, len(slots)) ** 0.5 + model[-1])


def fit(examples: Sequence[tuple[np.ndarray, bool]]) -> np.ndarray:
    """The model float64 [SLOTS + 1] of (slots, is good), which are looked at in this order."""
    model, squares = np.zeros(SLOTS + 1), np.full(SLOTS + 1, 1e-8)
    good = sum(is_good for _, is_good in examples)
    weights = {True: len(examples) / (2 * max(1, good)), False: len(examples) / (2 * max(1, len(examples) - good))}
    for _ in range(EPOCHS):
        for slots, is_good in examples:
            at = np.append(slots, SLOTS)
            slope = weights[is_good] * (_score(model, slots) - is_good)
            steps = np.full(len(at), slope / max(1, len(slots)) ** 0.5)
            steps[-1] = slope
            squares[at] += steps * steps
            model[at] -= RATE * steps / np.sqrt(squares[at])
    return model


def _area(good: np.ndarray, bad: np.ndarray) -> float:
    """The chance that a good text scores above a bad one (the area under the curve of ROC); a tie counts half."""
    both = np.concatenate([good, bad])
    _, at, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    total = ranks[at[: len(good)]].sum()
    return float((total - len(good) * (len(good) + 1) / 2) / (len(good) * len(bad)))


def train(
    good: Sequence[str | Path],
    bad: Sequence[str | Path],
    out: str | Path,
    *,
    held_out: float = HELD_OUT,
    verify: bool = False,
) -> dict[str, Any]:
    """Trains the model on good and bad texts; writes OUT/model.npy, and returns the manifest.

    The figures are of the held-out examples: `area` (under ROC), `accuracy` at 0.5, and the mean `score` of each kind.
    Raises DataError for fewer than LEAST_EXAMPLES of a kind to train on or to measure.
    """
    if not 0 < held_out < 1:
        raise ConfigError(f"held_out={held_out} must be above 0 and below 1")
    files = {True: records.expand(good), False: records.expand(bad)}
    config = {"slots": SLOTS, "runs": RUNS, "epochs": EPOCHS, "rate": RATE, "held_out": held_out, "version": VERSION}
    config |= {"good": [str(path) for path in files[True]], **records.inputs_config(good)}
    with manifest.stage(out, name="quality", config=config, inputs=[*files[True], *files[False]], verify=verify) as run:
        if run.done:
            return run.manifest or {}
        kept: list[tuple[int, np.ndarray, bool]] = []
        measured: list[tuple[int, np.ndarray, bool]] = []
        good_texts: set[int] = set()
        on_both_sides = 0
        for is_good, given in ((True, good), (False, bad)):
            for record in records.documents_and_examples(given):
                draw, text = _draw(record["id"], is_good), records.text_of(record)
                if is_good:
                    good_texts.add(hash(text))
                else:
                    on_both_sides += hash(text) in good_texts
                one = (draw, features(text), is_good)
                (measured if draw < held_out * 2**64 else kept).append(one)
        counts = Counter(
            ("held-out " if side is measured else "", good) for side in (kept, measured) for *_, good in side
        )
        for side in ("", "held-out "):
            for is_good, name in ((True, "good"), (False, "bad")):
                if (there := counts[side, is_good]) < LEAST_EXAMPLES:
                    raise DataError(
                        f"{records.shown(files[is_good])}: {there} {side}{name} texts, but {LEAST_EXAMPLES} are needed;"
                        " give more texts, or another --held-out"
                    )
        if on_both_sides:
            records.note(
                f"{on_both_sides} of {counts['', False] + counts['held-out ', False]} bad texts are good ones too, from"
                " which nothing can be learnt; remove them from one side"
            )
        kept.sort(key=lambda one: one[0])
        model = fit([(slots, is_good) for _, slots, is_good in kept]).astype(np.float32)
        parts.save_npy(run.tmp / MODEL, model)
        scores = {kind: np.array([_score(model, s) for _, s, good in measured if good == kind]) for kind in files}
        right = (scores[True] >= 0.5).sum() + (scores[False] < 0.5).sum()
        run.figures = {
            "good": counts["", True],
            "bad": counts["", False],
            "held_out": len(measured),
            "area": round(_area(scores[True], scores[False]), DIGITS),
            "accuracy": round(float(right / len(measured)), DIGITS),
            "score": {
                "good": round(float(scores[True].mean()), DIGITS),
                "bad": round(float(scores[False].mean()), DIGITS),
            },
        }
    return run.manifest or {}


def _draw(identity: str, is_good: bool) -> int:
    import xxhash

    return int(xxhash.xxh3_64_intdigest(f"quality {is_good} {identity}".encode("utf-8", "surrogatepass")))


@functools.lru_cache(maxsize=1)
def scorer(name: str) -> Scorer:
    """What scores texts: the model in a folder that `train` wrote, or the function MODULE:FUNCTION.

    Raises ConfigError for a function that cannot be imported, DataError for a folder without a model."""
    if ":" in name and not paths.on_bucket(name):
        module, _, function = name.partition(":")
        if not re.fullmatch(r"\w+(\.\w+)*", module) or not function.isidentifier():
            raise ConfigError(f"scorer {name}: is neither a folder nor MODULE:FUNCTION; write my_scores:quality, say")
        return _of_user(user_code.function(module, function, f"scorer {name}: "), name)
    path = paths.of(name) / MODEL
    try:
        with paths.reading(path) as file:
            model = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        paths.not_damage(error)
        raise DataError(
            f"{path}: holds no model ({str(error)[:80]}); name the folder that `tigerjax data quality train` wrote"
        ) from error
    if model.shape != (SLOTS + 1,) or not np.isfinite(model).all():
        raise DataError(f"{path}: is no model of this version; train it again")
    return lambda texts: [_score(model, features(text)) for text in texts]


def _of_user(own: Callable[..., Any], name: str) -> Scorer:
    """The user's function, whose scores are checked."""

    @functools.wraps(own)
    def scores(texts: Sequence[str]) -> Sequence[float]:
        try:
            given = user_code.results(own, texts)
        except TigerjaxError:
            raise
        except user_code.NotInOrder as error:
            raise DataError(f"scorer {name} {error}; correct the function") from error
        except USERS as error:
            file = getattr(sys.modules.get(getattr(own, "__module__", "")), "__file__", None)
            where = f" ({line_in(error, Path(file))})" if file else ""
            raise DataError(
                f"scorer {name} failed with {': '.join(of_user(error))}{where}; correct the function, which takes"
                " a list of texts and returns a number from 0 to 1 for each"
            ) from error
        for place, score in enumerate(given, 1):
            if isinstance(score, str | bytes) or not np.isscalar(score) or not np.isreal(score):
                raise DataError(
                    f"scorer {name} gave {shown(score)} for text {place} of {len(given)}; a score is a number"
                    " from 0 to 1"
                )
        return given

    return scores


def scorer_files(name: str) -> tuple[Path, ...]:
    """The files that decide the scores: those of the model, or the module of the function."""
    scores = scorer(name)
    if ":" in name and not paths.on_bucket(name):
        try:
            source = inspect.getsourcefile(inspect.unwrap(scores))
        except TypeError:  # a function that is not written in Python
            source = None
        return (Path(source),) if source else ()
    manifest.refuse_changed([paths.of(name) / MODEL])
    return (paths.of(name) / MODEL,)
