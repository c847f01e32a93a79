"""The chat encoding of a tokenizer that has a chat template: ids as `apply_chat_template` gives them, and weights.

    messages   user "Hi"                           assistant "Hello"
    text       <|im_start|>user⏎Hi<|im_end|>⏎      <|im_start|>assistant⏎Hello<|im_end|>⏎
    weights      0                                   0                    1    1         0

Which tokens are the assistant's is read off the template: from its `{% generation %}` blocks, or, where it has none, by
rendering the dialogue turn by turn. An answer begins where the prompt before it ends, and ends with its last token that
ends an answer.

The text of a special token inside a message is broken up by a mark before the template is rendered, and put together
again in what is encoded. So it gives ordinary tokens, and only the template itself writes special ones.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from tigerjax.errors import DataError
from tigerjax.tokenizer.added import CONFIG_FILE
from tigerjax.tokenizer.hf_files import TEMPLATE_FILE, Described
from tigerjax.tokenizer.jinja import BEGIN, END, MARK, Rendered, Template

BREAK = MARK + "."
CHAT = MARK + "c"
"""How the text of a dialogue begins, so that whoever holds only the text knows that special tokens stand in it."""
MEANT = {".": "", "0": MARK, "1": BEGIN, "2": END}
"""What MARK and this character stand for."""
PROBE = ("Question", "Answer")

PlacedToken = tuple[int, int, int]
"""(id, begin, end) of a token, in characters."""


class ChatTemplate:
    """Dialogues to ids and weights. `marked(text)` gives the tokens of a text in which special tokens stand as text,
    `plain(text, first)` those of one that has none, at the beginning of a dialogue or inside it."""

    def __init__(
        self,
        given: Described,
        marked: Callable[[str], list[PlacedToken]],
        plain: Callable[[str, bool], list[PlacedToken]],
    ):
        assert given.template is not None
        file = given.folder / TEMPLATE_FILE
        self.where = file if file.is_file() else given.folder / CONFIG_FILE
        self.source = given.template
        self._template = Template(given.template, given.names, self.where)
        self._marked, self._plain = marked, plain
        self._special, self._eos = given.special, given.eos
        self._texts = {given.added[i]: i for i in given.special}
        longest = sorted(self._texts, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, longest)) or "(?!)", re.DOTALL)
        self._starts = re.compile(f"(?={self._any.pattern})(.)", re.DOTALL)

    @cached_property
    def end(self) -> int:
        """The id that ends an answer: the special token that the template writes behind it, or eos."""
        user, answer = PROBE
        turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
        try:
            text = self._template.render(turns, prompt=False).text
        except DataError:
            return self._eos
        found = self._any.search(text, text.rfind(answer) + len(answer))
        return self._texts[found.group()] if found else self._eos

    def encode(self, messages: Sequence[Mapping[str, Any]], ends: frozenset[int]) -> tuple[list[int], list[float]]:
        """(ids, weights) of a dialogue; `ends` are the ids that end an answer.

        Raises DataError where the template refuses it, leaves a message out, or does not show where answers are.
        """
        turns = self._shielded(messages)
        rendered = self._rendered(turns, prompt=False)
        tokens = self._tokens(rendered.text)
        weights = [0.0] * len(tokens)
        answers = [k for k, turn in enumerate(turns) if turn["role"] == "assistant"]
        for k, (begin, end, whole) in zip(answers, self._answers(turns, answers, rendered, tokens, ends), strict=True):
            inside = [n for n, (_, first, last) in enumerate(tokens) if last > begin and first < end]
            stops = [n for n in inside if tokens[n][0] in ends]
            for n in inside:
                if whole or not stops or n <= stops[-1]:
                    weights[n] = messages[k].get("weight", 1)
        return [i for i, _, _ in tokens], weights

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids of a dialogue, and of what opens the next answer."""
        return [i for i, _, _ in self._tokens(self._rendered(self._shielded(messages), prompt=True).text)]

    def text(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool) -> str:
        """The dialogue as one text, which begins with CHAT. Without `prompt` its last message is left open: the model
        continues it."""
        turns = self._shielded(messages)
        text = self._rendered(turns, prompt=prompt).text
        if not prompt:
            last = turns[-1]["content"].strip()
            text = text[: text.rindex(last) + len(last)]
        return CHAT + text

    def ids(self, text: str) -> list[int]:
        """The ids of what `text` gave. More may stand behind it, in the form of `shielded`."""
        return [i for i, _, _ in self._tokens(text.removeprefix(CHAT))]

    def shielded(self, text: str) -> str:
        """The text, in which a mark breaks up every special token: also one of which only a part stands in it, as the
        rest may be what the template writes beside it."""
        for sign, meant in MEANT.items():
            if meant:
                text = text.replace(meant, MARK + sign)
        whole = text
        text = self._starts.sub(rf"\1{BREAK}", text)
        if whole.strip() and any(whole in special[1:-1] for special in self._texts):
            text = BREAK + text
        for special in self._texts:
            for cut in range(1, len(special)):
                begin, end = special[:cut], special[cut:]
                if begin.strip() and text.endswith(begin):
                    text = f"{text[: len(text) - cut + 1]}{BREAK}{text[len(text) - cut + 1 :]}"
                if end.strip() and text.startswith(end):
                    text = BREAK + text
        return text

    def _shielded(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Templates know no role "developer", and some leave out what they do not know."""
        roles = {"developer": "system"}
        return [{"role": roles.get(m["role"], m["role"]), "content": self.shielded(m["content"])} for m in messages]

    def _rendered(self, turns: Sequence[dict[str, str]], *, prompt: bool) -> Rendered:
        rendered, at = self._template.render(turns, prompt=prompt), 0
        for number, turn in enumerate(turns, 1):
            if turn["role"] == "assistant":  # a template may leave out what was only thought
                continue
            text = turn["content"].strip()
            if (found := rendered.text.find(text, at)) < 0:
                raise DataError(
                    f"{self.where}: the chat template leaves out message {number} of a dialogue, of the"
                    f" {turn['role']}; remove such messages, or give a template that writes them"
                )
            at = found + len(text)
        return rendered

    def _answers(
        self,
        turns: Sequence[dict[str, str]],
        answers: Sequence[int],
        rendered: Rendered,
        tokens: Sequence[PlacedToken],
        ends: frozenset[int],
    ) -> list[tuple[int, int, bool]]:
        """(begin, end, whether all of it is the answer) of each answer, in characters of the text."""
        if rendered.blocks:
            if len(rendered.blocks) != len(answers):
                raise self._unclear(f"it has {len(rendered.blocks)} generation blocks for {len(answers)} answers")
            return [(begin, end, True) for begin, end in rendered.blocks]
        begins = []
        for k in answers:
            before = self._template.render(turns[:k], prompt=True).text
            if not rendered.text.startswith(before):
                raise self._unclear(f"the prompt before message {k + 1} is not how the whole dialogue begins")
            begins.append(len(before))
        found = []
        for k, begin, limit in zip(answers, begins, [*begins[1:], len(rendered.text)], strict=True):
            upto = self._template.render(turns[: k + 1], prompt=False).text
            if rendered.text.startswith(upto):
                end = len(upto)
            else:  # what was only thought stays in the last answer, and is left out of earlier ones
                end = next((last for i, first, last in tokens if i in ends and first >= begin), limit + 1)
            if end > limit:
                raise self._unclear(f"where message {k + 1}, an answer, ends in it cannot be seen")
            found.append((begin, end, False))
        return found

    def _unclear(self, why: str) -> DataError:
        return DataError(
            f"{self.where}: the chat template does not show which tokens are the assistant's: {why}; write"
            " {% generation %} … {% endgeneration %} into it around what the assistant writes"
        )

    def _tokens(self, text: str) -> list[PlacedToken]:
        """The tokens of a rendered text, with what is marked in it as ordinary text."""
        tokens = self._marked(text)
        if MARK not in text:
            return tokens
        out: list[PlacedToken] = []
        at = 0
        for token in [*(t for t in tokens if t[0] in self._special), (-1, len(text), len(text))]:
            inner = text[at : token[1]]
            if MARK in inner:
                meant, places = _meant(inner)
                out += [(i, at + places[a], at + places[b - 1] + 1) for i, a, b in self._plain(meant, at == 0)]
            else:
                out += [t for t in tokens if at <= t[1] and t[2] <= token[1] and t[0] not in self._special]
            out.append(token)
            at = token[2]
        return out[:-1]


def _meant(text: str) -> tuple[str, list[int]]:
    """(the text that a marked one stands for, the place of each of its characters in the marked one)."""
    out: list[str] = []
    places: list[int] = []
    at = 0
    while at < len(text):
        meant, step = (MEANT.get(text[at + 1 : at + 2], ""), 2) if text[at] == MARK else (text[at], 1)
        out.append(meant)
        places += [at] * len(meant)
        at += step
    return "".join(out), places
