"""lm-evaluation-harness on our models: `TigerLM` is its TemplateLM. Needs the extra `eval`.

The harness's own `_encode_pair` moves trailing spaces of a context into the continuation, and cuts the encoding of the
whole text at the context's length. When the context ends with a marker such as "\\n\\n### Response:\\n", the
continuation is then empty. Here a text is split at its markers. Each part is encoded by itself and each marker becomes
its id (the chat encoding of `tigerjax.tokenizer.chat`). The continuation is what follows the context's ids.

Where the tokenizer has a chat template, a dialogue is its text, which begins with `template.CHAT`. Special tokens that
stand in it come from the template; those in the questions are marked as text.
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.group import Group
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tigerjax import config as config_lib
from tigerjax.errors import ConfigError, DataError
from tigerjax.evaluate import execute, suite
from tigerjax.evaluate.answerer import Answerer, load_answerer
from tigerjax.evaluate.harness_tasks import YAML
from tigerjax.evaluate.items import Missing
from tigerjax.evaluate.suite import EvaluationConfig
from tigerjax.files import jsonl, manifest, paths, written
from tigerjax.files.progress import Advance, Progress
from tigerjax.records import with_system
from tigerjax.tokenizer.template import CHAT

BOOTSTRAP = 1000
"""Draws for the error of a metric that has no formula: the error itself is then known to 2%."""
DEFAULT_NEW_TOKENS = 256  # where a task does not say, as the harness's own hf model


class TigerLM(TemplateLM):
    """An Answerer as the harness asks for it."""

    def __init__(self, answerer: Answerer, progress: Progress | None = None):
        super().__init__()
        self._progress = progress
        self.answerer = answerer
        self.tiger = answerer.tokenizer
        specials = {text: getattr(self.tiger, name) for name, text in self.tiger.special_texts.items() if name != "pad"}
        self._markers = specials
        self._context: tuple[str, list[int]] = "", []
        """The last context that was encoded."""
        self._cut = re.compile("|".join(map(re.escape, specials))) if specials else None

    def _says(self, what: str) -> Advance | None:
        return self._progress(what, "requests") if self._progress is not None else None

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "TigerLM":
        """From the harness's --model_args: config=CONFIG[,model=RUN][,rows=8][,cache=FILE]. Its batch size and device
        are not ours: rows is the batch, the config's mesh the devices.

        Raises ConfigError for any other word.
        """
        given = {"model": None, "rows": 8, "cache": None} | arg_dict
        if set(given) != {"config", "model", "rows", "cache"}:
            raise ConfigError(f"--model_args of tigerjax: config=FILE, and model, rows, cache; not {sorted(arg_dict)}")
        model, cache = (paths.of(given[name]) if given[name] else None for name in ("model", "cache"))
        settings = config_lib.load(Path(given["config"]))
        return cls(load_answerer(settings, model, rows=int(given["rows"]), cache=cache))

    @property
    def eot_token_id(self) -> int:
        return self.tiger.eos

    @property
    def prefix_token_id(self) -> int:
        return self.tiger.eos if self.tiger.bos is None else self.tiger.bos

    @property
    def max_length(self) -> int:
        return self.answerer.context

    @property
    def tokenizer_name(self) -> str:
        return self.tiger.sha256

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """A name for the harness's cache; the template itself is `apply_chat_template`."""
        return "tigerjax" if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The dialogue with its markers as text, which `tok_encode` turns into ids again; eos ends every answer.

        Raises DataError for a role other than user and assistant.
        """
        if self.tiger.template is not None:
            return self.tiger.template.text(chat_history, prompt=add_generation_prompt)
        texts = self.tiger.special_texts
        out = []
        chat_history = with_system(chat_history)
        for message in chat_history:
            if message["role"] == "user":
                out.append(texts["ins"] + message["content"])
            elif message["role"] == "assistant":
                ends = not add_generation_prompt and message is chat_history[-1]
                out.append(texts["res"] + message["content"] + ("" if ends else "</s>"))
            else:
                raise DataError(f"role {message['role']!r}: our chat encoding has user and assistant; drop the other")
        return "".join(out) + (texts["res"] if add_generation_prompt else "")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text: markers as ids, what is between them encoded apart; bos only where the tokenizer puts it
        before every text."""
        if string.startswith(CHAT):
            return self.tiger.template.ids(string)
        if self._cut is None:
            opening = [] if add_special_tokens is False else self.tiger.opening
            return [*opening, *self.tiger.encode(string)]
        ids: list[int] = []
        at = 0
        for marker in self._cut.finditer(string):
            ids += [*self._answer(string[at : marker.start()]), self._markers[marker.group()]]
            at = marker.end()
        return ids + self._answer(string[at:])

    def _answer(self, text: str) -> list[int]:
        """Between markers: the "</s>" that our template puts at an answer's end is eos."""
        body = text.removesuffix("</s>")
        ids = self.tiger.encode(body) if body else []
        return [*ids, self.tiger.eos] if body != text else ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """(context ids, continuation ids).

        After a marker the continuation is encoded by itself. Elsewhere the whole text is encoded, and cut at its first
        id that differs from those of the context alone. So a token that spans the border, such as one of the context's
        last space and the continuation's first word, goes to the continuation, which is then never empty.
        """
        if self._context[0] != context:  # the answers to one question come one after the other
            self._context = context, self.tok_encode(context)
        if context.startswith(CHAT):
            continuation = self.tiger.template.shielded(continuation)
        context_ids, whole_ids = self._context[1], self.tok_encode(context + continuation)
        same = 0
        while same < min(len(context_ids), len(whole_ids)) and context_ids[same] == whole_ids[same]:
            same += 1
        if same == len(whole_ids):
            raise DataError(f"continuation {continuation!r} has no tokens of its own after {context[-40:]!r}")
        return whole_ids[:same], whole_ids[same:]

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context or [self.prefix_token_id], continuation) for _, context, continuation in requests]
        requested = [([*context, *ids], len(context)) for context, ids in pairs]
        return self.answerer.loglikelihoods(requested, self._says("scored"))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, in windows of the context in which every token is scored once."""
        sequences: list[tuple[list[int], int]] = []
        counts = []
        for (text,) in (request.args for request in requests):
            windows = [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(text, add_special_tokens=False),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length - 1,  # a window and the token that it predicts last
                    context_len=1,
                )
            ]
            sequences += [([*context, *ids], len(context)) for context, ids in windows]
            counts.append(len(windows))
        scores = iter(self.answerer.loglikelihoods(sequences, self._says("scored")))
        return [sum(next(scores)[0] for _ in range(n)) for n in counts]

    def mean_logprob(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The mean log-probability per token of whole texts, as the tasks `tigerbot_*` compare alternatives by."""
        texts = [self.tok_encode(request.args[0]) for request in requests]
        return suite.mean_logprobs(self.answerer, texts, self._says("scored"))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, cut before the first of the task's stop texts; sampling is refused."""
        wanted, stops = [], []
        for context, options in (request.args for request in requests):
            if options.get("do_sample") or options.get("temperature"):
                raise DataError(f"a task asks for sampling ({options}); evaluation here is greedy")
            until = options.get("until") or []
            stops.append([until] if isinstance(until, str) else list(until))
            most = options.get("max_gen_toks", options.get("max_new_tokens", DEFAULT_NEW_TOKENS))
            wanted.append((self.tok_encode(context), int(most)))
        out = []
        for text, until in zip(self.answerer.continuations(wanted, self._says("continued")), stops, strict=True):
            for stop in filter(None, until):
                text = text.split(stop)[0]
            out.append(text)
        return out


def evaluate(
    answerer: Answerer,
    tasks: list[str],
    config: EvaluationConfig,
    *,
    out: Path | None = None,
    include_path: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """{tasks: {name: the harness's figures}, missing: {name: what is not there}, complete}.

    OUT/results.json keeps them, and OUT/items/NAME.jsonl every answer: {id, filter, target, answer, metric: value …}.

    Tasks are the harness's own, ours of `harness_tasks`, and those of YAML files in `include_path`. When a member of a
    group is missing, the group is left out and its other members are asked one by one: no average is over a part.
    Raises ConfigError for a task that is nowhere.
    """
    folders = [str(YAML), *([str(include_path)] if include_path else [])]
    metadata: dict[str, Any] = {"data_dir": str(config.data_dir)} if config.data_dir else {}
    if config.allow_unconfined:
        metadata["allow_unconfined_code"] = True
    manager = TaskManager(include_path=folders, include_defaults=False, metadata=metadata or None)
    if not set(tasks) <= set(manager.all_tasks):  # the harness's own are some 14,000 files: seconds to list
        manager = TaskManager(include_path=folders, metadata=metadata or None)
    if unknown := sorted(set(tasks) - set(manager.all_tasks)):
        raise ConfigError(
            f"no task {unknown[0]!r} in lm-evaluation-harness, tigerjax/evaluate/tasks or --include-path;"
            " correct the name"
        )
    if config.allow_code and any("humaneval" in name or name in ("tigerbot", "tigerbot_en") for name in tasks):
        execute.confined(config.allow_unconfined)
    there, missing = _there(manager, tasks, config.allow_code)
    evaluated: Any = {"results": {}, "samples": {}}
    os.environ["DISABLE_MULTIPROC"] = "1"  # it would draw in forks of this process, which JAX's threads do not survive
    if there:
        evaluated = lm_eval.simple_evaluate(
            model=TigerLM(answerer, progress),
            tasks=there,
            task_manager=manager,
            limit=config.limit,
            apply_chat_template=config.chat,
            bootstrap_iters=BOOTSTRAP,
            confirm_run_unsafe_code=config.allow_code,
        )
    results = {name: {k: v for k, v in r.items() if k != "alias"} for name, r in evaluated["results"].items()}
    _add_errors(results, evaluated["samples"], manager)
    figures = {"tasks": results, "missing": missing, "complete": not missing and config.limit is None}
    if out is not None and answerer.writes:
        (out / suite.ITEMS).mkdir(parents=True, exist_ok=True)
        for name, samples in evaluated["samples"].items():
            jsonl.write_jsonl(out / suite.ITEMS / f"{name}.jsonl", map(_item, samples))
        manifest.write_json(out / suite.RESULTS, figures | {"limit": config.limit, "chat": config.chat})
    return figures


def _add_errors(results: dict[str, Any], samples: dict[str, Any], manager: TaskManager) -> None:
    """The standard errors of our own tasks and of their means, which the harness does not know how to compute."""
    key = "score_stderr,none"
    for name, asked in samples.items():
        if "score,none" in results[name] and isinstance(asked[0].get("score"), dict):
            results[name][key] = suite.count([one["score"] for one in asked])["stderr"]
    for name in sorted(results, reverse=True):  # tigerbot_en and tigerbot_zh before tigerbot
        members = _members(manager, name) if name in manager.all_groups else []
        errors = [results.get(member, {}).get(key) for member in members]
        if "score,none" in results[name] and errors and all(isinstance(e, float) for e in errors):
            results[name][key] = math.sqrt(sum(e**2 for e in errors)) / len(errors)


def _item(sample: dict[str, Any]) -> dict[str, Any]:
    """One answer, as it is kept."""
    item = {"id": sample["doc_id"], "filter": sample.get("filter"), "target": sample["target"]}
    item |= {"answer": sample["filtered_resps"]} | {name: sample[name] for name in sample.get("metrics", ())}
    return json.loads(written.text(item))


def _there(manager: TaskManager, names: list[str], allow_code: bool) -> tuple[list[Task | Group], dict[str, str]]:
    """(the tasks and groups of `names` that have their data, {task: what is missing} of those that have not)."""
    there: list[Task | Group] = []
    missing: dict[str, str] = {}
    for name in names:
        try:
            loaded = manager.load(name)
        except Missing as absent:
            lacks = f"{absent} is not there"
        else:
            if allow_code or not any(getattr(task, "UNSAFE_CODE", False) for task in loaded["tasks"].values()):
                group = loaded.get("groups", {}).get(name)
                there += [group] if group else loaded["tasks"].values()
                continue
            lacks = suite.NOT_ALLOWED
        if members := _members(manager, name):
            more, lacking = _there(manager, members, allow_code)
            there, missing = there + more, missing | lacking
        else:
            missing[name] = lacks
    return there, missing


def _members(manager: TaskManager, name: str) -> list[str]:
    """The names in a group or tag. Empty for a group that changes its members' settings: they cannot be asked alone."""
    entry = manager.task_index[name]
    members = (entry.cfg or {}).get("task") if entry.kind.name == "GROUP" else sorted(entry.tags)
    return members if isinstance(members, list) and all(isinstance(m, str) for m in members) else []
