"""`tigerjax WORDS`, whose process 1 of several cannot score: for the tests of one host's failure."""

import sys

import jax

from tigerjax.align.reward import Scorer
from tigerjax.command import cli
from tigerjax.errors import DataError

if __name__ == "__main__":
    score = Scorer.raw_ids

    def lose(self, ids):
        if jax.process_index() == 1:
            raise DataError("the reward model is lost")
        return score(self, ids)

    Scorer.raw_ids = lose
    sys.exit(cli.main())
