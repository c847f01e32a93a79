"""How well `tigerjax data language` finds the language of real text, by class and by length.

    python benchmarks/studies/identified_languages.py [--packages runs/languages] [--each 150] [--json FILE]

The text is that of benchmarks/data/language_text.py. Its half `tuned` was looked at when the thresholds were chosen;
the figures are those of the other one. For each class and length: the share of the pieces with the right language, with
none (und, and zh without a form), and with a wrong one. `others` are fifteen languages of the installation guide, whose
pages are English in part; pieces of it that are code count as wrong. The last lines give the speed.
"""

import argparse
import importlib.metadata
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))

from language_text import LENGTHS, fetch, pieces

from tigerjax.text.identification import LIBRARY, UNDETERMINED, identified

CLASSES = ("zh-Hans", "zh-Hant", "en", "code", "others")


def outcome(wanted: str, found: str) -> str:
    """right, none or wrong."""
    if found == wanted:
        return "right"
    return "none" if found == UNDETERMINED or (found == "zh" and wanted.startswith("zh-")) else "wrong"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, default=Path("runs/languages"))
    parser.add_argument("--each", type=int, default=150, help="pieces of each class and length")
    parser.add_argument("--half", choices=("held_out", "tuned"), default="held_out")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    fetch(args.packages)
    counts: dict[tuple[str, int], Counter[str]] = {}
    instead: dict[str, Counter[str]] = {}
    characters, seconds = 0, 0.0
    identified("a first text, so that the model is there")
    for wanted, half, length, text in pieces(args.packages, each=args.each):
        if half != args.half:
            continue
        started = time.process_time()
        found = identified(text).lang
        seconds += time.process_time() - started
        characters += len(text)
        name = wanted if wanted in CLASSES else "others"
        came = outcome(wanted, found)
        counts.setdefault((name, length), Counter())[came] += 1
        if came == "wrong":
            instead.setdefault(name, Counter())[found] += 1
    print(f"{LIBRARY} {importlib.metadata.version(LIBRARY)}, half {args.half}; right / none / wrong, percent\n")
    print("| class | " + " | ".join(f"{length} characters" for length in LENGTHS) + " |")
    print("|---|" + "---|" * len(LENGTHS))
    raw: dict[str, Any] = {}
    for name in CLASSES:
        cells = []
        for length in LENGTHS:
            made = counts.get((name, length), Counter())
            raw.setdefault(name, {})[length] = dict(made)
            total = max(1, made.total())
            cells.append(" / ".join(f"{100 * made[came] / total:.1f}" for came in ("right", "none", "wrong")))
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()
    for name, others in instead.items():
        print(f"{name} wrongly found to be: " + ", ".join(f"{lang} {n}" for lang, n in others.most_common(6)))
    print(f"{characters / 1e6:.1f} M characters, {characters / 1e6 / seconds:.2f} M characters per CPU second")
    if args.json:
        args.json.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
