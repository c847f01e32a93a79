"""The plots of docs/REPLICATION.md: a dot per seed, a line or bar through their means."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from align_world_data import EXAMPLES
from replicate_cells import by_arm
from replicate_models import SHARES, STEPS_AFTER
from replicate_preferences import ARMS as LOSS_ARMS
from replicate_reinforcement import ARMS as REWARD_ARMS
from replicate_rounds import ARMS
from replicate_tokens import EMBEDDED_PIECES

MADE_FOR = {"holistic": ("base",), "rounds": ("world",)}
"""Cells that stand under another experiment's heading in the sums of time."""
COLOURS = ("#3f6fa8", "#c4591c", "#2e8a76", "#8660a8", "#8b8f97")
SMOOTHED = 10
PROMPTS = EXAMPLES // 10  # a round draws a tenth
Records = list[dict[str, Any]]


def draw(records: Records, folder: Path) -> None:
    """One PNG an experiment that has cells of every arm; the same cells give the same picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110})
    for name, (panels, paint) in PLOTS.items():
        if not by_arm(records, name):
            continue
        figure, axes = plt.subplots(1, panels, figsize=(3.9 * panels, 3.2), squeeze=False, layout="constrained")
        paint(records, list(axes[0]))
        figure.savefig(folder / f"{name}.png", metadata={"Software": ""})
        plt.close(figure)


def _dots(axes: Any, xs: Sequence[Any], by_x: Sequence[Sequence[float]], label: str, colour: str, **line: Any) -> None:
    """Seeds as dots at each x, their means joined."""
    for x, values in zip(xs, by_x, strict=True):
        axes.plot([x] * len(values), values, "o", color=colour, alpha=0.45, markersize=4)
    means = [statistics.mean(values) for values in by_x]
    axes.plot(xs, means, color=colour, label=label, marker="_", markersize=12, **line)


def _tokens(records: Records, axes: list[Any]) -> None:
    arms = by_arm(records, "tokens")
    small, large = list(arms.get("embedded", {}).values()), list(arms.get("by-name", {}).values())
    ratios = [[1.0] * len(small), *([f[f"+{n}"] / f["before"] for f in small] for n in EMBEDDED_PIECES)]
    _dots(axes[0], [0, *EMBEDDED_PIECES], ratios, "embedded verse", COLOURS[0])
    axes[0].axhline(2, color="grey", linestyle=":", label="TigerBot's figure")
    axes[0].set(xlabel="new pieces beside 32,000", ylabel="characters per token, ratio", title="Held-out verse")
    axes[0].legend(edgecolor="none", framealpha=0.9)
    if large:
        names = sorted(large[0]["by_source"])
        pairs = {n: [f["by_source"][n][1] / f["by_source"][n][0] for f in large if n in f["by_source"]] for n in names}
        pairs["ALL"] = [f["after"] / f["before"] for f in large]
        for row, values in enumerate(pairs.values()):
            axes[1].barh(row, statistics.mean(values), color=COLOURS[1 if row < len(names) else 0], alpha=0.6)
            axes[1].plot(values, [row] * len(values), "k.", markersize=4)
        axes[1].set_yticks(range(len(pairs)), [n.removesuffix("_zh").replace("_", " ") for n in pairs], fontsize=7)
        axes[1].axvline(2, color="grey", linestyle=":")
        axes[1].set(xlabel="ratio", title="By-name text, 32,000 to 60,515", xlim=(1, None))
    else:
        axes[1].set_axis_off()


def _pretrained(records: Records) -> dict[str, list[dict[str, Any]]]:
    return {arm: list(own.values()) for arm, own in by_arm(records, "holistic").items()}


def _holistic(records: Records, axes: list[Any]) -> None:
    arms = _pretrained(records)
    shares = [100 * share for share in SHARES.values()]
    for when, colour in (("before", COLOURS[0]), ("after", COLOURS[1])):
        right = [[100 * f[when]["accuracy"] for f in arms[arm]] for arm in SHARES]
        _dots(axes[0], shares, right, f"{when} SFT", colour)
        nats = [[f[when]["answer_nats"] for f in arms[arm]] for arm in SHARES]
        _dots(axes[1], shares, nats, f"{when} SFT", colour)
    for lang, colour in (("zh", COLOURS[2]), ("en", COLOURS[3])):
        held = [[f["before"][f"{lang}_nats"] for f in arms[arm]] for arm in SHARES]
        _dots(axes[2], shares, held, f"held-out {lang}", colour)
    for arm, colour in zip(SHARES, COLOURS, strict=False):
        curves = [_smooth(f["sft_losses"]) for f in arms[arm]]
        mean = [statistics.mean(at) for at in zip(*curves, strict=True)]
        per_step = arms[arm][0]["examples_per_step"]
        axes[3].plot([per_step * (i + 1) for i in range(len(mean))], mean, color=colour, label=f"from {arm}")
    for axis in axes[:3]:
        axis.set_xlabel("instructions in pretraining, % of tokens")
        axis.set_xticks(shares)
    axes[0].set(title="Test questions answered rightly", ylabel="%", ylim=(0, None))
    axes[1].set(title="Loss of the right answers", ylabel="nats per token")
    axes[2].set(title="Loss of held-out books before SFT", ylabel="nats per token")
    axes[3].set(title="SFT loss, mean over seeds", xlabel="SFT examples seen", ylabel="nats per token", yscale="log")
    for axis in axes:
        axis.legend(edgecolor="none", framealpha=0.9)


def _smooth(losses: Sequence[float]) -> list[float]:
    return [statistics.mean(losses[max(0, i - SMOOTHED + 1) : i + 1]) for i in range(len(losses))]


def _dedup(records: Records, axes: list[Any]) -> None:
    arms = {"left in": list(by_arm(records, "dedup")["repeats"].values()), "removed": _pretrained(records)["10%"]}
    panels: tuple[tuple[str, str, Callable[[Mapping[str, Any]], float]], ...] = (
        ("Test questions answered rightly", "before SFT", lambda f: 100 * f["before"]["accuracy"]),
        ("Test questions answered rightly", "after SFT", lambda f: 100 * f["after"]["accuracy"]),
        ("Loss of the right answers", "before SFT", lambda f: f["before"]["answer_nats"]),
        ("Loss of the right answers", "after SFT", lambda f: f["after"]["answer_nats"]),
        ("Loss of held-out books", "zh", lambda f: f["before"]["zh_nats"]),
        ("Loss of held-out books", "en", lambda f: f["before"]["en_nats"]),
    )
    for number, (title, label, of) in enumerate(panels):
        axis, colour = axes[number // 2], COLOURS[number % 2 + 2 * (number // 4)]
        _dots(axis, [0, 1], [[of(f) for f in own] for own in arms.values()], label, colour)
        axis.set(title=title, ylabel="%" if number < 2 else "nats per token", xlim=(-0.4, 1.4))
        axis.set_xticks([0, 1], [f"repeats {arm}" for arm in arms])
        axis.legend(edgecolor="none", framealpha=0.9)


def _rounds(records: Records, axes: list[Any]) -> None:
    arms = {name: list(own.values()) for name, own in by_arm(records, "rounds").items()}
    before = [100 * f["accuracy"] for f in by_arm(records, "world")["world"].values()]
    counts = [(ARMS[a].candidates, a) for a in ARMS if ARMS[a].people and ARMS[a].kind == "truth"]
    xs = [n for n, _ in counts]
    _dots(axes[0], xs, [[100 * f["accuracy"] for f in arms[a]] for _, a in counts], "after the round", COLOURS[0])
    axes[0].axhline(statistics.mean(before), color=COLOURS[4], linestyle="--", label="SFT model")
    control = statistics.mean(100 * f["accuracy"] for f in arms["control"])
    axes[0].axhline(control, color=COLOURS[3], linestyle=":", label="as many steps, no winners")
    shares = [[100 * f["winners_right"].get("rm", 0.0) for f in arms[a]] for _, a in counts]
    _dots(axes[1], xs, shares, "right, of those", COLOURS[1])
    drawn = [[100 * sum(f["winners"].values()) / PROMPTS for f in arms[a]] for _, a in counts]
    _dots(axes[1], xs, drawn, "prompts with a winner", COLOURS[2])
    for axis, title in ((axes[0], "Held-out questions answered rightly"), (axes[1], "Winners of the reward model")):
        axis.set(xscale="log", xlabel="candidates per prompt", ylabel="%", title=title)
        axis.set_xticks(xs, [str(n) for n in xs])
        axis.minorticks_off()
        axis.legend(edgecolor="none", framealpha=0.9, fontsize=8)
    names = {
        "SFT": before,
        "no\nwinners": [100 * f["accuracy"] for f in arms["control"]],
        "sound,\npeople": [100 * f["accuracy"] for f in arms["n=10"]],
        "sound,\nalone": [100 * f["accuracy"] for f in arms["n=10 alone"]],
        "noisy,\npeople": [100 * f["accuracy"] for f in arms["n=10 noisy"]],
        "noisy,\nalone": [100 * f["accuracy"] for f in arms["n=10 noisy alone"]],
    }
    for x, values in enumerate(names.values()):
        axes[2].bar(x, statistics.mean(values), color=COLOURS[4 if x < 2 else (x - 2) // 2], alpha=0.5)
        axes[2].plot([x] * len(values), values, "k.", markersize=5)
    axes[2].set_xticks(range(len(names)), names, fontsize=8)
    axes[2].set(title="Ten candidates: with and without people", ylabel="%")


def _preferences(records: Records, axes: list[Any]) -> None:
    _beside_sft(by_arm(records, "preferences"), "winners", LOSS_ARMS, axes)


def _reinforcement(records: Records, axes: list[Any]) -> None:
    _beside_sft(by_arm(records, "reinforcement"), "sampling", REWARD_ARMS, axes)


def _beside_sft(arms: dict[str, Any], first: str, names: Sequence[str], axes: list[Any]) -> None:
    """A bar and dots for each arm, beside the SFT model that it starts from."""
    for axis, name, label in ((axes[0], "accuracy", "right"), (axes[1], "true_reward", "true reward")):
        values = {"SFT": [f["before"][name] for f in arms[first].values()]}
        values |= {arm: [f[name] for f in arms[arm].values()] for arm in names}
        for x, own in enumerate(values.values()):
            axis.bar(x, statistics.mean(own), color=COLOURS[0 if x > 1 else 4], alpha=0.5)
            axis.plot([x] * len(own), own, "k.", markersize=5)
        axis.set_xticks(range(len(values)), list(values), fontsize=8)
        axis.set(title=f"Held-out questions: {label}")


def _extension(records: Records, axes: list[Any]) -> None:
    arms = {name: list(own.values()) for name, own in by_arm(records, "extension").items()}
    places = range(len(STEPS_AFTER))
    for axis, lang in zip(axes, ("zh", "en"), strict=True):
        for (arm, own), colour in zip(sorted(arms.items()), COLOURS, strict=False):
            held = [[f["after_steps"][str(k)][f"{lang}_nats"] for f in own] for k in STEPS_AFTER]
            _dots(axis, list(places), held, {"mean": "mean of sub-tokens"}.get(arm, arm), colour)
        axis.set_xticks(places, [str(k) for k in STEPS_AFTER])
        axis.set(title=f"Held-out {lang} books", xlabel="steps after the extension", ylabel="nats per token")
    axes[0].legend(edgecolor="none", framealpha=0.9)


PLOTS: dict[str, tuple[int, Callable[[Records, list[Any]], None]]] = {
    "tokens": (2, _tokens),
    "holistic": (4, _holistic),
    "dedup": (3, _dedup),
    "rounds": (3, _rounds),
    "preferences": (2, _preferences),
    "reinforcement": (2, _reinforcement),
    "extension": (2, _extension),
}
