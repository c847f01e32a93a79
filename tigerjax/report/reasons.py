"""Why a stage or a round went up or down: one sentence by rule, from figures that the report holds and nothing else.

The rule for stages compares neighbours of the recipe: by how much, whether chance alone could do that, and in which
tasks. The rule for rounds compares the current and the new model: reward, accuracy and length.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from tigerjax.pages.numbers import number, points, standard_error
from tigerjax.report.figures import share_of, stage_name, stages

MOST_TASKS = 4  # that a sentence lists
LONGER = 1.1  # an answer this many times as long is called longer
ONE_SEED = (
    "One run, one seed. Another seed gives other figures, and how far they spread was not measured here. Before"
    " trusting a small difference, run again with other seeds."
)


def of_stages(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(stage, sentence) of each stage after the first, and of the control beside the stage before the winners."""
    order = [name for name in stages(scores) if name != "control"]
    pairs = list(itertools.pairwise(order))
    if "control" in scores and len(order) > 1:
        pairs.append((order[-2], "control"))
    return [(stage_name(after), _change(scores, before, after)) for before, after in pairs]


def _change(scores: Mapping[str, Any], before: str, after: str) -> str:
    old, new = scores[before], scores[after]
    change = float(new["overall"]) - float(old["overall"])
    errors = [standard_error(float(side["overall"]), int(side["n"])) for side in (old, new)]
    limit = 2 * math.hypot(*errors)
    if abs(change) <= limit:
        chance = f"no more than two standard errors of the difference ({100 * limit:.1f} points): it may be chance"
    else:
        chance = f"more than two standard errors of the difference ({100 * limit:.1f} points)"
    sentences = [f"{points(change)} compared with {stage_name(before)}, {chance}."]
    if by := _by_task(old, new):
        sentences.append(f"By task, in points: {by}.")
    if "evasive" in old and "evasive" in new and old["evasive"] != new["evasive"]:
        sentences.append(f"Answers that decline to answer: {number(old['evasive'])} → {number(new['evasive'])}.")
    return " ".join(sentences)


def _by_task(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The tasks and their changes in points, the largest first; empty where there are not two tasks."""
    before, after = old.get("by_task") or {}, new.get("by_task") or {}
    changes = {name: share_of(after[name]) - share_of(before[name]) for name in after if name in before}
    if len(changes) < 2:
        return ""
    order = sorted(changes, key=lambda name: -abs(changes[name]))
    listed = ", ".join(f"{name.replace('_', ' ')} {100 * changes[name]:+.1f}" for name in order[:MOST_TASKS])
    return listed + (f", and {len(order) - MOST_TASKS} more tasks" if len(order) > MOST_TASKS else "")


def of_round(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What the change of mean reward, held-out accuracy and mean length says together."""
    reward, accuracy = (after[name] - before[name] for name in ("reward", "accuracy"))
    if reward > 0 and accuracy > 0:
        return "Reward and accuracy both rose: answers that the reward model prefers are right more often too."
    if reward > 0:
        longer = after["characters"] > LONGER * before["characters"]
        grew = f" Its answers grew from {number(before['characters'])} to {number(after['characters'])} characters."
        fell = "did not rise" if accuracy == 0 else f"fell by {-100 * accuracy:.1f} points"
        said = f"The reward rose and the accuracy {fell}: the new model may have learnt to please the reward model."
        return said + (grew if longer else "")
    if accuracy > 0:
        return "The accuracy rose and the reward did not: the reward model does not see what was gained."
    if reward == accuracy == 0:
        return "Reward and accuracy are what they were: on these questions the new model is no better and no worse."
    return "Neither reward nor accuracy rose."
