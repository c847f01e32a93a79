"""What rewards the answers of a roll-out: one or several rewards, added up with weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from tigerjax.align import calibration
from tigerjax.align.answers import Answer
from tigerjax.align.reward import Scorer, check_rows
from tigerjax.align.rewards import given
from tigerjax.align.rewards.reward import Reward, refuse_floors
from tigerjax.checkpoint.loaded import load
from tigerjax.config import RlConfig, RunConfig
from tigerjax.errors import ConfigError


class Rewards:
    """The rewards of a run's config. Calling it scores answers by each of them."""

    def __init__(self, run: RunConfig, settings: RlConfig, tokenizer: Any, mesh: Mesh | None):
        """Loads the reward models onto `mesh` (None: one device) and imports the functions.

        Raises ConfigError for no reward, for a function that cannot be imported, for a model that is no calibrated
        reward model of this tokenizer, and for a floor.
        """
        if not settings.rewards:
            raise ConfigError("objective.rewards names nothing; name a folder of a reward model, or MODULE:FUNCTION")
        check_rows(settings.score_batch_size, mesh)

        def scorer(path: str) -> Scorer:
            calibration.refuse_foreign(path)
            model = load(path, tokenizer, compute=run.compute, mesh=mesh, reward=True)
            calibration.check(model.extra, path)
            return Scorer(model, seq_len=run.data.seq_len, rows=settings.score_batch_size)

        self._weights = np.array(settings.weights)
        read = [given.read(text) for text in settings.rewards]
        for one in read:
            refuse_floors(one, "reinforcement learning")
        self._rewards = [Reward(one, scorer) for one in read]

    def __call__(self, answers: Sequence[Answer]) -> tuple[np.ndarray, np.ndarray]:
        """(the weighted sum of the scores, float64 [answers]; the scores, float64 [answers, rewards]).

        NaN where one of the rewards gives no finite number. All hosts call it together.
        """
        columns = [[score.total for score in reward(answers)] for reward in self._rewards]
        scores = np.array(columns, np.float64).T
        scores[~np.isfinite(scores)] = np.nan
        return scores @ self._weights, scores
