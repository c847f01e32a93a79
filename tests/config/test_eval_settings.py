"""The settings of validation: which are refused, and the names of the sets."""

import dataclasses

import pytest
from tiny_run import tiny_config

from tigerjax.config import EvalConfig
from tigerjax.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patience": 2}, r"eval\.patience=2 counts validations"),
        ({"sets": ("held/*.jsonl",)}, r"'held/\*\.jsonl' has no name or no path; write NAME=PATH"),
        ({"sets": ("..",)}, "has no name"),
        ({"every_steps": 0}, r"eval\.every_steps=0 must be"),
        ({"max_new_tokens": 8}, r"eval\.max_new_tokens=8 is about the answers to eval\.questions, and there are none"),
        ({"chat": False}, r"eval\.chat=False is about the answers to eval\.questions"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        EvalConfig(**given)


def test_keep_best_needs_validations():
    base = tiny_config(total_steps=6, every_steps=2, keep=3)
    saving = dataclasses.replace(base.checkpoint, keep_best=True)
    with pytest.raises(ConfigError, match=r"checkpoint\.keep_best needs validations"):
        dataclasses.replace(base, checkpoint=saving, eval=EvalConfig(every_steps=None))


def test_sets_are_named_by_their_files_or_by_hand():
    given = ("a/wiki.jsonl.zst", "x=gs://b/c", "x=lang=zh/p.jsonl", "a/folder/")
    assert EvalConfig(sets=given).named("sets") == {
        "wiki": ("a/wiki.jsonl.zst",), "x": ("gs://b/c", "lang=zh/p.jsonl"), "folder": ("a/folder/",),
    }  # fmt: skip
