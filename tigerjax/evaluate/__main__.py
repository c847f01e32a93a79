"""The command of lm-evaluation-harness, which then knows our models too. It needs the extra `eval`.

    python -m tigerjax.evaluate run --model tigerjax --model_args config=configs/tiger_7b_sft.py,model=runs/sft \
        --include_path tigerjax/evaluate/tasks --metadata data_dir=benchmarks_data --tasks tigerbot_zh

The harness looks for models in its own table, so this file adds ours to the table and then calls the harness.
"""

import importlib
import sys

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import model_registry

from tigerjax.errors import DataError, TigerjaxError
from tigerjax.evaluate.items import Missing
from tigerjax.terminal import tell


def main() -> int:
    """The exit code; missing data is 3, and nothing was asked."""
    importlib.import_module("lm_eval.models")  # the harness enters its own only while the table is empty
    model_registry.register("tigerjax", target="tigerjax.evaluate.harness:TigerLM")
    try:
        cli_evaluate()
    except TigerjaxError as error:
        return _say(str(error), error.exit_code)
    except Missing as absent:
        return _say(f"{absent} is not there; put it there, or leave its task out", DataError.exit_code)
    return 0


def _say(line: str, code: int) -> int:
    tell(f"tigerjax: {line}")
    return code


if __name__ == "__main__":
    sys.exit(main())
