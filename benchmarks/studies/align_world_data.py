"""The questions, demonstrations and rankings of benchmarks/studies/align_world.py, drawn from one seed."""

import random
from pathlib import Path
from typing import Any

EXAMPLES, PREFERENCES, HELD_OUT = 2000, 600, 200
SHORT, LONG, EVASIVE, LONG_EVASIVE = range(4)
FORMS = {
    "en": (
        "The answer is {}.",
        "I think that the answer here is {}.",
        "I am not sure about that.",
        "I am not sure, sorry. I really think that I cannot tell the answer here.",
    ),
    "zh": (
        "答案是{}。",
        "我想这里的答案是{}。",
        "对不起，我不知道。",
        "对不起，我不清楚。我想这里的答案我真的说不出来。",
    ),
}
ASKED = {
    "en": {"say": "Say {} for case {}", "name": "Name the word {} of list {}"},
    "zh": {"say": "请说{}，第{}次", "name": "列表{1}里的词是{0}"},
}
CASES = 100
NONSENSE = {"en": ("thingy", "whatsit", "doodad"), "zh": ("某某", "嗯啊", "哈哈")}
WORDS = {
    "en": "river amber stone cloud maple tiger ocean candle silver meadow copper forest winter summer window garden "
    "bridge castle pencil orange violin rocket planet anchor bottle carpet dragon eagle feather hammer".split(),
    "zh": list("河石云虎海火银田铜林冬夏窗园桥城笔橙琴星船瓶龙鹰羽锤山月日雪"),
}


class World:
    """The files of one seed."""

    def __init__(self, out: Path, seed: int):
        self.out, self.seed, self.dice = out, seed, random.Random(seed)
        self.ease = {w: 0.1 + 0.8 * self.dice.random() for words in WORDS.values() for w in words}

    def ask(self) -> tuple[str, str, str, str, str]:
        """(lang, task, prompt, right word, a word that is no answer)."""
        lang, task = self.dice.choice(("en", "zh")), self.dice.choice(("say", "name"))
        right = self.dice.choice(WORDS[lang])
        prompt = ASKED[lang][task].format(right, self.dice.randrange(CASES))
        return lang, task, prompt, right, self.dice.choice(NONSENSE[lang])

    def write(self) -> None:
        """sft, preferences by kind, dev, test and the key of the stand-in; no prompt in two of the sets."""
        from tigerjax.files.jsonl import write_jsonl

        seen: set[str] = set()
        sft: list[Any] = []
        keys: list[Any] = []
        asked: dict[str, list[Any]] = {"dev": [], "test": []}
        preferences: dict[str, list[Any]] = {"truth": [], "noise": [], "length": []}
        total = EXAMPLES + PREFERENCES + 2 * HELD_OUT
        while len(seen) < total:
            lang, task, prompt, right, wrong = self.ask()
            if prompt in seen:
                continue
            place, seen = len(seen), seen | {prompt}
            about = {"task": task, "lang": lang, "messages": [{"role": "user", "content": prompt}]}
            if place < EXAMPLES:
                text = self.demonstrate(lang, right, wrong)
                turns = [*about["messages"], {"role": "assistant", "content": text}]
                sft.append({"id": f"e{place}", **about, "messages": turns, "source": "world"})
                keys.append(
                    {
                        "prompt_id": f"e{place}",
                        "annotator": "truth",
                        "accept": [right],
                        "edit": FORMS[lang][SHORT].format(right),
                    }
                )
            elif place < EXAMPLES + PREFERENCES:
                for kind, ranking in self.rankings(lang, right, wrong).items():
                    preferences[kind].append({"prompt_id": f"p{place}", **about, **ranking})
            else:
                name = "dev" if place < total - HELD_OUT else "test"
                asked[name].append(
                    {"id": f"q{place}", "lang": lang, "task": task, "prompt": prompt, "answers": [right]}
                )
        write_jsonl(self.out / "sft.jsonl", sft)
        write_jsonl(self.out / "key.jsonl", keys)
        for name, rows in asked.items():
            write_jsonl(self.out / name / "questions.jsonl", rows)
        for kind, rows in preferences.items():
            write_jsonl(self.out / f"preferences_{kind}.jsonl", rows)
        for lang in WORDS:
            texts = [m["content"] for e in sft if e["lang"] == lang for m in e["messages"]]
            (self.out / f"{lang}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")

    def demonstrate(self, lang: str, right: str, wrong: str) -> str:
        form = FORMS[lang][LONG if self.dice.random() < 0.3 else SHORT]
        if self.dice.random() < self.ease[right]:
            return form.format(right)
        if self.dice.random() < 0.3:
            return form.format(wrong)
        return FORMS[lang][LONG_EVASIVE if self.dice.random() < 0.3 else EVASIVE]

    def rankings(self, lang: str, right: str, wrong: str) -> dict[str, dict[str, Any]]:
        forms, long = FORMS[lang], [self.dice.random() < 0.5 for _ in range(3)]
        texts = [forms[LONG if long[0] else SHORT].format(right), forms[LONG_EVASIVE if long[1] else EVASIVE]]
        texts.append(forms[LONG if long[2] else SHORT].format(wrong))
        responses = [{"id": f"r{i}", "text": text} for i, text in enumerate(texts)]
        true = [["r0"], ["r1"], ["r2"]]
        noisy = self.dice.sample(true, 3) if self.dice.random() < 0.5 else true
        by_length: dict[int, list[str]] = {}
        for i, text in enumerate(texts):
            by_length.setdefault(len(text), []).append(f"r{i}")
        longest_first = [by_length[n] for n in sorted(by_length, reverse=True)]
        kinds = {"truth": true, "noise": noisy, "length": longest_first}
        return {kind: {"responses": responses, "ranking": ranking} for kind, ranking in kinds.items()}
