"""A judge: a language model that is asked for a number for each answer.

What it is asked is the text of the template, with the question and the answer in it. Its score is the number behind the
last `Score:` of its reply, or the whole reply where that is a number or `Score 7`. Nothing else is taken for a score.
"""

import hashlib
import math
import os
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.align.answers import Answer
from tigerjax.align.rewards.config import JudgeConfig
from tigerjax.align.rewards.functions import named
from tigerjax.align.rewards.replies import Replies
from tigerjax.align.rewards.requests import CUT, Api, JudgeRefusal
from tigerjax.errors import ConfigError, DataError, TigerjaxError, near_miss
from tigerjax.files import manifest, paths
from tigerjax.files.progress import Advance
from tigerjax.processes import hosts
from tigerjax.terminal import one_line

FILLED = ("question", "conversation", "answer")
PLACE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
GLUE = r"[\s*_`]*"  # what Markdown puts around a number
OUT_OF = rf"(?:{GLUE}[(\uff08]?(?:[/\uff0f]|out of|满分){GLUE}(\d+(?:\.\d+)?))?"
NUMBER = rf"([-+]?\d+(?:\.\d+)?)(?![\d.,]*\d|[A-Za-z]|_+\w){OUT_OF}"
WORD = r"(?:\bscore|评分|得分|分数)"
CALLED = re.compile(rf"{WORD}{GLUE}[:\uff1a=]{GLUE}(?=[-+]?\d)", re.IGNORECASE)
SCORE = re.compile(rf"{NUMBER}(?!\s*(?:[-\u2013~至到或]|to\b|or\b)\s*\d)", re.IGNORECASE)
TAIL = r"[\s*_`.)\uff09\u3002]*"
LINE = re.compile(rf"{GLUE}(?:{WORD}{GLUE}(?<![A-Za-z0-9_]))?{NUMBER}{TAIL}", re.IGNORECASE)
"""A reply that is a score without a colon. In a sentence, as in `a better answer would score 9`, it is none."""
OF_ONE = (400, 413, 422)
"""HTTP statuses by which an API may refuse one question, as too long or not allowed, and answer the others."""
MOST_REASONS = 3  # of refusals that the line about a judge names
TOGETHER = 16
"""So many times `calls` questions are asked before the other hosts hear of it and progress is shown."""


class JudgeRequest(NamedTuple):
    """A request, and its hash."""

    body: dict[str, Any]
    sha256: str


class Judge:
    """Scores answers by a language model behind an API. One host asks; replies are kept in a file."""

    def __init__(self, name: str, config: JudgeConfig, *, patience_s: float | None = None):
        """`name` is that of the part, for messages. `patience_s` None takes that of the config.

        Raises ConfigError for a template or a key that cannot be used.
        """
        self.name, self._config = name, config
        self._template = template(config.template)
        self._key = key(config)
        self._patience_s = config.patience_s if patience_s is None else patience_s
        digest = hashlib.sha256(manifest.canonical([config.url, config.model, self._template, config.body])).hexdigest()
        self.replies = paths.of(config.cache) / f"{digest[:16]}.jsonl"

    @property
    def uses(self) -> dict[str, Any]:
        """What its scores depend on."""
        fields = {name: getattr(self._config, name) for name in ("url", "model", "body", "lowest", "highest")}
        return fields | {"template_sha256": hashlib.sha256(self._template.encode()).hexdigest()}

    def __call__(self, answers: Sequence[Answer], progress: Advance | None = None) -> list[float]:
        """The scores of answers; NaN where no reply has one, or the judge refuses the question about this answer, for
        at most the share `max_unread` of them.

        Raises JudgeError when the judge does not answer, DataError when too many of its replies have no score, and
        ConfigError when it refuses the request, or too many of the questions. What it has replied by then is not asked
        again.
        """
        scores: list[float] = []
        many = self._config.calls * TOGETHER
        asking = _Asking(self, answers) if hosts.is_writer() else None
        try:
            for start in range(0, len(answers), many):
                hosts.at(f"asking judge {self.name}, answer {start} of {len(answers)}")
                some = asking.some(start, start + many) if asking is not None else None
                told = hosts.share(f"scores of judge {self.name}", some)[0]
                scores += [math.nan if score is None else score for score in told]
                if progress is not None:
                    progress(len(scores), len(answers))
        finally:
            if asking is not None:
                asking.close()
        return scores

    def question(self, answer: Answer) -> JudgeRequest:
        """What the judge is asked about an answer."""
        turns = [f"{m['role']}: {m['content']}" for m in answer.messages]
        values = {
            "question": str(answer.messages[-1]["content"]),
            "conversation": "\n\n".join(turns),
            "answer": answer.text,
        }
        # One pass: braces in the answer are left as they are.
        text = PLACE.sub(lambda place: values[place[1]], self._template)
        body = self._config.body | {"model": self._config.model, "messages": [{"role": "user", "content": text}]}
        return JudgeRequest(body, hashlib.sha256(manifest.canonical([self._config.url, body])).hexdigest())


Outcome = str | JudgeRefusal
"""The text of a reply, or how the API refused the question."""


class _TooMany(Exception):
    """More answers than `max_unread` allows have no score; `outcome` is what came of the question about `answer`."""

    def __init__(self, answer: Answer, outcome: Outcome) -> None:
        super().__init__()
        self.answer, self.outcome = answer, outcome


class _Asking:
    """One call of a judge, on the host that asks."""

    def __init__(self, judge: Judge, answers: Sequence[Answer]):
        self._judge, self._answers, self._config = judge, answers, judge._config
        self._api = Api(judge._config, judge._key, patience_s=judge._patience_s)
        self._kept = Replies(judge.replies)
        self._pool = ThreadPoolExecutor(judge._config.calls, thread_name_prefix="judge")
        self._from_file, self._unread = 0, list[tuple[Answer, Outcome]]()
        self._hopeless, self._refused, self._lock = 0, Counter[str](), threading.Lock()
        self._stop: _TooMany | None = None
        self._futures = list[Future[Outcome]]()

    def some(self, start: int, end: int) -> list[float | None]:
        """The scores of the answers from `start` to `end`; None where no reply has one."""
        asked = [self._judge.question(answer) for answer in self._answers[start:end]]
        known: dict[str, Outcome] = {
            q.sha256: kept.text
            for q in asked
            if (kept := self._kept.get(q.sha256)) and self._score(kept.text) is not None
        }
        self._from_file += sum(q.sha256 in known for q in asked)
        fresh = {q.sha256: q for q in asked if q.sha256 not in known}
        about = {q.sha256: answer for q, answer in zip(asked, self._answers[start:end], strict=True)}
        futures = {sha: self._pool.submit(self._asked, question, about[sha]) for sha, question in fresh.items()}
        self._futures = list(futures.values())
        done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
        if failed := next((error for future in done if (error := future.exception()) is not None), None):
            if isinstance(failed, _TooMany):
                raise self._unreadable(failed.answer, failed.outcome) from failed
            raise failed
        came = known | {sha256: future.result() for sha256, future in futures.items()}
        scores = [self._score(came[question.sha256]) for question in asked]
        some = zip(scores, self._answers[start:end], asked, strict=True)
        self._unread += [(answer, came[question.sha256]) for score, answer, question in some if score is None]
        self._refuse_unread()
        return scores

    def _asked(self, question: JudgeRequest, answer: Answer) -> Outcome:
        """What comes of a question. A reply with a score in it is kept; one without it is asked for again. A question
        that the API refuses would be refused again."""
        outcome: Outcome = ""
        for _ in range(1 + self._config.asked_again):
            if self._stop is not None:
                raise self._stop
            try:
                reply = self._api.ask(question.body)
            except JudgeRefusal as error:
                if error.status not in OF_ONE:
                    raise
                outcome = error
                break
            outcome = reply.text
            if self._score(outcome) is not None:
                self._kept.add(question.sha256, reply)
                return outcome
        with self._lock:
            self._hopeless += 1
            if isinstance(outcome, JudgeRefusal):
                self._refused[outcome.what] += 1
            if self._too_many(self._hopeless):  # the command stops, so no more is asked and paid for
                self._stop = self._stop or _TooMany(answer, outcome)
                raise self._stop
        return outcome

    def _score(self, outcome: Outcome) -> float | None:
        """The score of a reply; the words of a refusal have none, whatever number is in them."""
        if isinstance(outcome, JudgeRefusal):
            return None
        return score_in(outcome, self._config.lowest, self._config.highest)

    def _refuse_unread(self) -> None:
        if self._too_many(len(self._unread)):
            raise self._unreadable(*self._unread[0])

    def _too_many(self, unread: int) -> bool:
        return unread > self._config.max_unread * len(self._answers)

    def _unreadable(self, answer: Answer, outcome: Outcome) -> TigerjaxError:
        c = self._config
        if isinstance(outcome, JudgeRefusal):
            return ConfigError(
                f"judge {c.url} refuses the request: {outcome.what}; it was about {named(answer)}; check url, model and"
                f" body, or let such answers go without a score by a higher max_unread={c.max_unread:g}"
            )
        return DataError(
            f"judge {self._judge.name} gave no score from {c.lowest:g} to {c.highest:g} for {named(answer)}, but"
            f" {one_line(outcome)[:80]!r}; have the template ask for a last line `Score: NUMBER`, or raise max_unread="
            f"{c.max_unread:g}"
        )

    def close(self) -> None:
        """Ends what is under way, and says what the judge was asked. Replies that are under way may have been paid for,
        so they are waited for and kept."""
        self._api.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if under_way := sum(not future.done() for future in self._futures):
            hosts.say(
                f"judge {self._judge.name}: {under_way} replies are under way and waited for, at most"
                f" {self._config.timeout_s:g} s; Ctrl-C again ends at once"
            )
        self._pool.shutdown()
        self._kept.close()
        api, lost = self._api, max(len(self._unread), self._hopeless)
        unread = f"; without a score: {lost:,}" if lost else ""
        if self._refused:
            reasons = ", ".join(f"{count:,} x {what}" for what, count in self._refused.most_common(MOST_REASONS))
            unread += f", of these questions refused: {self._refused.total():,} ({reasons})"
        hosts.say(
            f"judge {self._judge.name}: answers {len(self._answers):,}, of these by replies in {self._judge.replies}"
            f" {self._from_file:,}; calls {api.calls:,}, tokens read {api.tokens_in:,}, tokens written"
            f" {api.tokens_out:,}{unread}"
        )


def score_in(reply: str, lowest: float, highest: float) -> float | None:
    """The score in a reply; None where there is none, or one that the range does not have.

    `Score: 7`, `**Score:** 7/10` where 10 is the highest, or a reply that is a number and nothing else. `Score: 7-8`
    and `Score: 7,5` are none, also where another `Score:` stands before them. Neither is a number at which the reply
    was cut off, nor one that a model names while it thinks, in `<think>`.
    """
    whole = reply.removesuffix(CUT)
    # What stands behind the end of the last thought, and before one that has no end.
    is_cut, reply = whole != reply, whole.rpartition("/think>")[2].partition("<think>")[0]
    called = next(reversed([*CALLED.finditer(reply)]), None)
    found = LINE.fullmatch(reply) if called is None else SCORE.match(reply, called.end())
    if found is None or (found[2] is not None and float(found[2]) != highest):
        return None
    if is_cut and not reply[found.end() :].strip(".,/"):  # `Score: 1` may be the beginning of `Score: 10`
        return None
    score = float(found[1])
    return score if lowest <= score <= highest else None


def template(path: str) -> str:
    """The text of a template; ConfigError for one that does not show the answer and what was asked."""
    place, where = paths.of(path), f"judge.template {path}"
    try:
        text = place.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror or error}; give the file of the judge's template") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 at byte {error.start}; write it as UTF-8") from error
    names = [found[1] for found in PLACE.finditer(text)]
    if wrong := [name for name in names if name not in FILLED]:
        known = ", ".join(f"{{{{{name}}}}}" for name in FILLED)
        raise ConfigError(f"{where}: {{{{{wrong[0]}}}}} is not filled in{near_miss(wrong[0], FILLED)}; use {known}")
    if "answer" not in names or len(set(names)) < 2:
        raise ConfigError(f"{where}: needs {{{{answer}}}}, and {{{{question}}}} or {{{{conversation}}}}; add them")
    return text


def key(config: JudgeConfig, environ: Mapping[str, str] = os.environ) -> str | None:
    """The key of the API, from the file or the variable that the config names; None where it names neither.

    Raises ConfigError for a file without a key in it.
    """
    if config.key_env is not None:
        found, where = environ.get(config.key_env, ""), f"the variable {config.key_env} of judge.key_env"
    elif config.key_file is not None:
        where = f"judge.key_file {config.key_file}"
        try:
            found = Path(config.key_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
            raise ConfigError(f"{where}: {reason}; give a file that holds the key") from error
    else:
        return None
    if not (found := found.strip()) or not re.fullmatch(r"[\x21-\x7e]+", found):
        raise ConfigError(f"{where} holds no key, or one with blanks in it; put the key there alone")
    return found
