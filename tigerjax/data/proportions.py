"""Token shares that follow the sizes of the sources, flattened by a temperature."""

from collections.abc import Mapping
from typing import Any

from tigerjax.errors import ConfigError

_TOKENS: dict[str, int] = {}


def measure(tokens: Mapping[str, int]) -> None:
    """Takes the tokens of an epoch of tasks whose rows are there."""
    _TOKENS.update(tokens)


class Proportions:
    """The rates of the tasks of a mixture, as a rate function of SeqIO.

    The sources of a group divide its share by weight x tokens ^ (1 / temperature) (mT5, Xue et al. 2021, section 3.1).
    Temperature 1 reads all of them equally often; a high one gives all the same share. With 90 and 10 million tokens
    and temperature 2: 0.75 and 0.25.
    """

    def __init__(self, mixture: str, share: float, weights: Mapping[str, float], temperature: float):
        self.mixture, self.share, self.weights, self.temperature = mixture, share, dict(weights), temperature

    def __call__(self, task: Any) -> float:
        """ConfigError while the sizes of the sources are not known."""
        if unknown := self.weights.keys() - _TOKENS.keys():
            raise ConfigError(
                f"mixture {self.mixture}: with temperature={self.temperature:g} the shares follow the tokens of the"
                f" sources, and those of {min(unknown)} are not counted yet; open the mixture with its rows first"
            )
        sizes = {name: weight * _TOKENS[name] ** (1 / self.temperature) for name, weight in self.weights.items()}
        return self.share * sizes[task.name] / sum(sizes.values())
