"""A report that no run wrote: round, impossible-looking figures and hostile text, for the tests of the page alone."""

import math
from typing import Any

HOSTILE = '<script src="http://made.up/x.js">alert(1)</script> & "quotes" \x00\x1b[31m'


def made_up_report(samples: int = 3) -> dict[str, Any]:
    def scored(overall: float, n: int = 400) -> dict[str, Any]:
        def part(share: float) -> dict[str, float]:
            return {"accuracy": share, "right": round(share * n / 2), "n": n // 2}

        by_task = {t: part(overall * f) for t, f in (("addition", 1.1), ("capitals", 0.9), ("word_count", 1.0))}
        return {
            "overall": overall,
            "n": n,
            "by_lang": {"en": part(overall * 1.05), "zh": part(overall * 0.95)},
            "by_task": by_task,
        }

    def falling(start: float, end: float, steps: int) -> list[list[float]]:
        wobble = [0.08 * math.sin(7.3 * i) * math.exp(-i / steps) for i in range(steps)]
        return [[10 * i, end + (start - end) * math.exp(-5 * i / steps) + wobble[i]] for i in range(steps)]

    def side(reward: float, characters: float, accuracy: float) -> dict[str, Any]:
        scores = [*(reward + 0.3 * i for i in range(-5, 6)), None]
        return {"reward": reward, "characters": characters, "accuracy": accuracy, "scores": scores}

    def ended(number: int, gate: str, reasons: list[str]) -> dict[str, Any]:
        about = {"round": number, "gate": gate, "reasons": reasons, "win_rate": 0.66}
        winners = {"rm": 77, "human": 22, "edit": 1}
        return about | {"winners": winners, "before": side(-0.11, 44.4, 0.22), "after": side(0.88, 55.5, 0.33)}

    names = ("base", "holistic", "sft", "rejection_sampled")
    prompts = [
        ("en", f"MADE UP: how much is 111 + 222? {HOSTILE}"),
        ("zh", "虚构：一百一十一加二百二十二等于多少？请只回答数字。"),
        ("en", "MADE UP: " + "a very long prompt " * 12 + "x" * 90),
    ]
    return {
        "version": "0.0.made-up",
        "seed": 111,
        "config": {"parameters": 1_111_111, "tokens": 22_222_222, "note": HOSTILE},
        "tokenizer": {
            "vocab_before": 1111,
            "vocab_after": 2222,
            "chars_per_token_before": {"zh": 0.333, "en": 3.333},
            "chars_per_token_after": {"zh": 1.222, "en": 3.334},
        },
        "data": {
            "clean": {"in": 1111, "out": 1100, "dropped": {"too_short": 11}},
            "dedup": {
                "exact": {"in": 1100, "out": 1000, "dropped": {"exact": 100}},
                "near": {"in": 1000, "out": 999, "dropped": {"near": 1}},
            },
            "against_sft": {"in": 999, "out": 990, "dropped": {"contained": 9}},
        },
        "shares": {
            "wanted": {"zh": 0.45, "en": 0.45, "instructions": 0.1},
            "realised": {"zh": 0.4501, "en": 0.4499, "instructions": 0.1},
        },
        "curves": {
            "base": falling(8.0, 3.0, 60),
            "holistic": falling(6.0, 2.0, 80),
            "sft": falling(2.0, 0.7, 40),
            "reward": [*falling(0.7, 0.3, 30), [310, float("nan")]],
            "rejection_sampled": falling(0.8, 0.5, 20),
        },
        "accuracy": {
            "control": scored(0.56),
            "base": scored(0.0),
            "holistic": scored(0.11),
            "sft": scored(0.55),
            "rejection_sampled": scored(0.66),
        },
        "true_reward": [
            {"round": 1, "before": -0.111, "after": 0.222, "n": 333},
            {"round": 2, "before": 0.222, "after": 0.333, "n": 333},
        ],
        "round": {
            "prompts": 111,
            "candidates": 1110,
            "winners": {"rm": 94, "human": 11, "edit": 6},
            "rm_pair_accuracy": 0.777,
            "reward_before": -0.11,
            "reward_after": 0.99,
        },
        "align_rounds": [ended(1, "accepted", []), ended(2, "refused", [f"mean en lost 2.22 points {HOSTILE}"])],
        "examples": [{"round": 2} | made_up_examples()],
        "samples": [
            {
                "lang": prompts[i % 3][0],
                "prompt": prompts[i % 3][1],
                "answers": dict(zip(names, ("", HOSTILE, "222", "333"), strict=True)),
                "right": dict(zip(names, (False, False, False, True), strict=True)),
            }
            for i in range(samples)
        ],
        "runs": {
            name: {
                "tokens_per_s": [[10 * i, 11_111.1 + 111 * (i % 7)] for i in range(1, 61)],
                "mfu": [[10 * i, 0.444 + 0.0111 * (i % 3)] for i in range(1, 61)],
                "goodput": [[10 * i, 1 - 1 / (i + 1)] for i in range(1, 61)],
                "hbm_peak_gb": [[10 * i, 77.7] for i in range(1, 61)],
                "grad_norm": [[10 * i, 2.22 / i] for i in range(1, 61)],
                "spent_s": {"steps": 88.8, "start": 4.4, "compile": 3.3, "data": 2.2, "save": 1.1, "down": 0.0},
            }
            for name in ("holistic", f"sft{HOSTILE}")
        },
        "validation": {
            f"sft{HOSTILE}": {
                "train": [[100 * i, 2.2 / i] for i in range(1, 7)],
                "sets": {f"wiki{HOSTILE}": [[100 * i, 3.3 - 0.11 * i] for i in range(1, 7)]},
                "last": {
                    f"wiki{HOSTILE}": {
                        "loss_nats": 2.64,
                        "accuracy": 0.44,
                        "tokens": 22_222,
                        "by_source": {HOSTILE: {"loss_nats": None, "accuracy": 0.33, "tokens": 111}},
                    }
                },
                "best": {f"wiki{HOSTILE}": [600, 2.64]},
                "rising": {f"wiki/source/{HOSTILE}": 500},
            }
        },
        "lineage": [
            {"name": f"corpus{HOSTILE}", "stage": "file", "detail": "", "of": []},
            {"name": "clean", "stage": "clean", "detail": "2,222 → 2,111", "of": [0]},
            {"name": "tokenizer", "stage": "tokenizer_extend", "detail": "2,222 entries", "of": [1]},
            {"name": "made_up_holistic", "stage": "rows", "detail": "4,444 rows, 5 sources", "of": [1, 2]},
            {"name": "holistic", "stage": "train", "detail": "step 600", "of": [3]},
            {"name": "rounds/01/train", "stage": "align train", "detail": "", "of": [4]},
            {"name": "hf", "stage": "convert to-hf", "detail": "39 tensors", "of": [5, 2]},
        ],
        "hf_max_abs_logit_diff": 1.11e-5,
        "hf_greedy_equal": {"prompts": 22, "equal": 22},
        "seconds": {
            "clean and deduplicate": 1.1,
            "tokenizer": 2.2,
            "train base": 33.3,
            "train holistic": 111.1,
            "train sft": 44.4,
            "reward model": 22.2,
            "rejection sampling: one round": 55.5,
        },
        "total_seconds": 333.3,
    }


def made_up_examples() -> dict[str, Any]:
    """Prompts of each kind and held-out questions, with hostile names and texts and a word that no line can break."""

    def answer(score: float | None, text: str = HOSTILE, **more: Any) -> dict[str, Any]:
        scored = {"score": score, "parts": {f"safe{HOSTILE}": 0.111, "taste": None}, "below": [f"safe{HOSTILE}"]}
        standing = {"won": False, "by": "rm", "why_not": "", "place": None, "rejected": False}
        return {"text": text, "cut": 0, "finish": "stop"} | scored | standing | more

    def prompt(kind: str, *answers: dict[str, Any], people: dict[str, Any] | None = None) -> dict[str, Any]:
        asked = {"role": f"user{HOSTILE}", "text": f"MADE UP {kind}: {HOSTILE}" + "y" * 300, "cut": 22_222}
        whole = {"prompt_id": f"{kind}-{HOSTILE}", "kind": kind, "messages": [asked], "messages_left_out": 3}
        return whole | {"existing": answer(-1.11), "answers": answers, "answers_left_out": 7, "people": people}

    did = {"annotators": ["ann", HOSTILE], "ranked": 4, "rejected": 0, "edited": 1}
    asked = [{"role": "user", "text": "虚构：首都是哪里？", "cut": 0}]
    sides = ((1.1, 2.2), (2.2, 1.1), (1.1, 1.1))
    return {
        "prompts": [
            prompt("people", answer(None, won=True, by="edit"), answer(3.3, place=1), people=did),
            prompt("floor", answer(2.2, won=True), answer(9.9, why_not="below_floor")),
            prompt("nobody", answer(0.1, "", why_not="empty"), answer(0.2, why_not=f"odd{HOSTILE}")),
            prompt("reward", answer(2.2, "x" * 300, won=True)),
        ],
        "prompts_left_out": 4444,
        "held_out": [
            {"messages": asked, "messages_left_out": 0, "before": answer(before), "after": answer(after)}
            for before, after in sides
        ],
        "held_out_left_out": 55,
    }
