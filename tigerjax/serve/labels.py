"""Labels that people give in the page, as lines that `tigerjax align import` reads.

    ranking {prompt_id, annotator, messages, candidates: [{label: "A", text, finish}], model_sha, ranking, reject}
    edit    {prompt_id, annotator, messages, candidates, model_sha, base: "A", text}

A line brings its own question: the conversation, and the answers that were shown. The same question has the same
prompt_id, whoever asks it.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tigerjax.files.jsonl import dumped
from tigerjax.files.lock import locked
from tigerjax.files.log import Log
from tigerjax.files.manifest import canonical
from tigerjax.serve.refused import Refused
from tigerjax.serve.requests import LETTERS, LabelRequest

FILE = "labels.jsonl"


class Labels:
    """A file of labels that grows by whole lines."""

    def __init__(self, folder: Path, model_sha: str, log: Log):
        """`Labels.open` makes one."""
        self.path, self._model_sha, self._log = folder / FILE, model_sha, log

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, model_sha: str) -> Iterator["Labels"]:
        """The labels in FOLDER/labels.jsonl, to which lines are added. ConfigError when another process adds to it."""
        with locked(folder):
            folder.mkdir(parents=True, exist_ok=True)
            log = Log(folder / FILE)
            try:
                yield cls(folder, model_sha, log)
            finally:
                log.close()

    def add(self, asked: LabelRequest) -> dict[str, Any]:
        """The line that was written. Refused where an edit changes nothing."""
        line = self._line(asked)
        self._log.write(dumped(line).decode())
        self._log.flush()
        return line

    def _line(self, asked: LabelRequest) -> dict[str, Any]:
        messages = [{"role": m.role, "content": m.content} for m in asked.messages]
        candidates: list[dict[str, str]] = []
        names: list[str] = []  # by place: equal texts have one label
        for candidate in asked.candidates:
            same = next((c["label"] for c in candidates if c["text"] == candidate.text), None)
            names.append(same or LETTERS[len(candidates)])
            if same is None:
                candidates.append({"label": names[-1], "text": candidate.text, "finish": candidate.finish})
        question = {"messages": messages, "candidates": candidates}
        identity = f"chat-{hashlib.sha256(canonical(question)).hexdigest()[:32]}"
        head = {"prompt_id": identity, "annotator": asked.annotator.strip(), **question, "model_sha": self._model_sha}
        if asked.base is not None and asked.text is not None:
            if asked.text.strip() == asked.candidates[asked.base].text.strip():
                raise Refused(400, "text is the answer as it was; change it, or send a ranking", param="text")
            return head | {"base": names[asked.base], "text": asked.text}
        seen: set[str] = set()
        ranking = []
        for group in asked.ranking:
            own = [name for name in dict.fromkeys(names[place] for place in group) if name not in seen]
            seen.update(own)
            ranking += [own] if own else []
        reject = list(dict.fromkeys(names[place] for place in asked.reject))
        return head | {"ranking": ranking, "reject": reject}
