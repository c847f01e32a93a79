"""The materials of an alignment, made once a session."""

from pathlib import Path

import pytest
from tiny_project import materials

from tigerjax.checkpoint.model import load_model, save_model


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """Materials; `ends` is the chat model with an end of text that is often likely."""
    folder = tmp_path_factory.mktemp("made")
    materials(folder)
    chat = load_model(folder / "chat")
    chat.weights["head"][:, 2] *= 45
    save_model(folder / "ends", chat.weights, chat.config, tokenizer_sha256=chat.tokenizer_sha256)
    return folder
