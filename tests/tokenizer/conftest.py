"""Tokenizers trained once for the room's tests, on the embedded data: an English base, a Chinese BPE, their merge."""

from pathlib import Path

import pytest

from tigerjax.tokenizer.extend import extend
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.train import train_model

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
BASE_SIZE, ZH_SIZE, SIZE = 1500, 4001, 3003


@pytest.fixture(scope="session")
def embedded() -> Path:
    return EMBEDDED


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer") / "base"
    train_model([EMBEDDED / "corpus_en.jsonl"], BASE_SIZE, out)
    return out


@pytest.fixture(scope="session")
def zh_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer") / "zh"
    train_model([EMBEDDED / "corpus_zh.jsonl"], ZH_SIZE, out)
    return out


@pytest.fixture(scope="session")
def folder(base_folder: Path, zh_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer") / "extended"
    extend(base_folder, zh_folder, SIZE, out)
    return out


@pytest.fixture(scope="session")
def base(base_folder: Path) -> Tokenizer:
    return Tokenizer(base_folder)


@pytest.fixture(scope="session")
def tok(folder: Path) -> Tokenizer:
    return Tokenizer(folder)


@pytest.fixture(scope="session")
def hard_lines() -> list[str]:
    """Lines on which tokenizers tend to disagree: spaces, newlines, emoji, runs, bytes, mixed scripts."""
    lines = [
        " ",
        "  leading",
        "trailing  ",
        "a\tb",
        "def f(x):\n    return x\n\n\n",
        "😀👨‍👩‍👧‍👦🏳️‍🌈",
        "\r\n",
        "\u3000全角",
    ]
    lines += [
        "עברית العربية",
        "。。。！！？？",
        "“中”—…·《》",
        "𠮷𪚥",
        "Ⅷ①㊣",
        "カタカナ漢字ひらがな",
        "한국어",
        "naïve",
        "x\u200bz",
    ]
    lines += [" " * k + "x" for k in range(1, 40)] + ["ab" + "\n" * k + "c" for k in range(1, 8)]
    return lines + [c * k for c in "a=-*一人。" for k in range(2, 40)]
