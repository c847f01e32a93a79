"""An element of the array job of a step: `python -m tigerjax.stages.slurm_task FOLDER SHA256` (`slurm`)."""

import hashlib
import json
import os
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any

from tigerjax.files import manifest
from tigerjax.stages.slurm import TODO, WORK


def main(folder: Path, sha256: str, element: int) -> None:
    """Works on the items of an element, and writes FOLDER/<item>.json of each. Those that are there already stay."""
    packed = (folder / WORK).read_bytes()
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise SystemExit(f"{folder / WORK} holds other bytes than were written; start the stage again")
    task, items = pickle.loads(packed)
    for number in json.loads((folder / TODO).read_text(encoding="utf-8"))[element]:
        if not (folder / f"{number}.json").exists():
            manifest.write_json(folder / f"{number}.json", _result(task, items[number]))


def _result(task: Any, item: Any) -> dict[str, Any]:
    """What a task returns. An OSError is raised, as the next try may not meet it; any other error is a bug, and is
    returned."""
    try:
        result: dict[str, Any] = task(item)
        return result
    except OSError:
        raise
    except Exception:
        return {"bug": traceback.format_exc()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(os.environ["SLURM_ARRAY_TASK_ID"]))
