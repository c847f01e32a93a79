"""Scores as others published them, in percent: means over the nine English and over the four Chinese benchmarks."""

from typing import NamedTuple

SOURCE = "TigerBot's repository, evaluation tables of 14 December 2023 (OpenCompass)"


class Published(NamedTuple):
    mean_en: float
    mean_zh: float
    chat: bool


MODELS: dict[str, Published] = {
    "Llama-2-13B": Published(54.77, 48.23, False),
    "TigerBot-13B-base": Published(56.64, 53.16, False),
    "Llama-2-70B": Published(63.24, 52.27, False),
    "TigerBot-70B-base": Published(66.58, 65.26, False),
    "Llama-2-13B-chat": Published(59.43, 48.71, True),
    "TigerBot-13B-chat": Published(60.42, 58.66, True),
    "Llama-2-70B-chat": Published(65.62, 53.83, True),
    "TigerBot-70B-chat": Published(69.87, 64.80, True),
}

CAVEATS = (
    "OCNLI stood at 30.0-30.6 for all four base models, below the chance of three answers: it says nothing there.",
    "OpenBookQA is the mean of a plain subset and of one that gives the fact away.",
    "Prompts are those known of TigerBot's runs; where one is not known, ours is used: a ratio is an orientation.",
)
