"""What `tigerjax.evaluate.length` measured, as tables and charts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigerjax import pages
from tigerjax.pages import Table
from tigerjax.pages.lines import Plot, lines, plot, write_picture
from tigerjax.pages.numbers import percent

LANGUAGES = {"en": "English", "zh": "Chinese"}


def named(lang: str) -> str:
    return LANGUAGES.get(lang, lang)


def languages(figures: dict[str, Any]) -> list[str]:
    """The languages that were measured, in order."""
    return sorted({lang for own in figures["ropes"].values() for lang in own})


def tables(figures: dict[str, Any]) -> list[tuple[str, Table]]:
    """(caption, table): for each language the loss of the last tokens, and the share of numbers that were found."""
    heads = ["rope", *(f"{times}x" for times in figures["times"])]
    found = []
    for lang in languages(figures):
        for caption, words in (
            (f"{named(lang)}: loss of the last {figures['bin']} tokens, nats", _last),
            (f"{named(lang)}: hidden numbers that were found", _right),
        ):
            rows = [[kind, *map(words, own[lang]["lengths"])] for kind, own in figures["ropes"].items()]
            found.append((caption, Table(heads, rows)))
    return found


def plots(figures: dict[str, Any]) -> list[tuple[str, Plot]]:
    """(title, plot): for each language the loss by length, the loss by position in the longest rows, and the numbers
    that were found. There is a line for each kind of rope."""
    marks = figures["times"]
    across, trained = "length of the row / length of training", figures["trained"]
    drawn = []
    for lang in languages(figures):
        own = {kind: by_lang[lang]["lengths"] for kind, by_lang in figures["ropes"].items()}
        last = {kind: [(at["times"], at["last_nats"]) for at in lengths] for kind, lengths in own.items()}
        drawn.append(
            (f"{named(lang)}: loss of the last {figures['bin']} tokens", plot(last, across, "nats", marks=marks))
        )
        places = {
            kind: [
                ((n + 1) * figures["bin"] / trained, nats)
                for n, nats in enumerate(max(lengths, key=lambda at: at["length"])["by_position"])
            ]
            for kind, lengths in own.items()
        }
        title = f"{named(lang)}: loss by position in rows of {max(marks)}x"
        drawn.append((title, plot(places, "position / length of training", "nats", marks=marks)))
        right = {kind: [(at["times"], at["needles"]["right"]) for at in lengths] for kind, lengths in own.items()}
        shares = plot(right, across, "found", marks=marks, write=lambda share: percent(share, 0), bounds=(0.0, 1.05))
        drawn.append((f"{named(lang)}: hidden numbers that were found", shares))
    return drawn


def notes(figures: dict[str, Any]) -> list[str]:
    """Sentences that a reader must know beside the figures."""
    rows = {named(lang): own["rows"] for lang, own in next(iter(figures["ropes"].values())).items()}
    lengths = next(iter(next(iter(figures["ropes"].values())).values()))["lengths"]
    counts = ", ".join(f"{lang}: {count}" for lang, count in rows.items())
    return [
        f"The model was trained on rows of {figures['trained']} tokens. Kinds of rope that have a factor have"
        f" {figures['factor']:g}.",
        f"Rows of text: {counts}. Rows of all lengths end at the same tokens.",
        f"Hidden numbers for each language and length: {lengths[0]['needles']['n']}, at depths"
        f" {', '.join(lengths[0]['needles']['by_depth'])} of the row. One is found when each of its tokens is the"
        " likeliest.",
    ]


def write(path: Path, title: str, figures: dict[str, Any]) -> None:
    """Writes the page. An old page is replaced as a whole."""
    charts = [(caption, lines(drawn)) for caption, drawn in plots(figures)]
    pages.write(path, "evaluate/length.html", title=title, charts=charts, tables=tables(figures), notes=notes(figures))


def write_pictures(path: Path, figures: dict[str, Any]) -> None:
    """Writes the charts alone as one SVG file, a row for each language."""
    drawn: Sequence[tuple[str, Plot]] = plots(figures)
    write_picture(path, drawn, len(drawn) // len(languages(figures)))


def _last(at: dict[str, Any]) -> str:
    return f"{at['last_nats']:.3f}"


def _right(at: dict[str, Any]) -> str:
    return percent(at["needles"]["right"], 0)
