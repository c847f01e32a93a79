"""Commands about the checkpoint files of a run. They need no device."""

from pathlib import Path
from typing import Annotated, Any

from tigerjax.command.figures import save
from tigerjax.command.progress import show_progress
from tigerjax.config.ranges import CountOrZero
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.terminal import show


def ls(run: Annotated[Path, "positional"], json: Path | None = None) -> None:
    """Lists the checkpoints of a run, the newest first, with size and state.

    The state says whether all files are there and have their size. `tigerjax checkpoint verify` also reads them.

    Example: tigerjax checkpoint ls runs/llama2_tiny
    """
    from tigerjax.checkpoint.files import damaged, folder_of, steps

    folder = folder_of(run)
    rows = [_row(folder, step) for step in steps(folder)]
    for row in rows:
        show(f"{row['step']:>10}  {row['bytes'] / 1e9:10.3f} GB  {row['kind'] or '-':8} {row['state']}")
    for name in (aside := damaged(folder)):
        show(f"{name:>10}  damaged, renamed by a resumed run; `tigerjax checkpoint rm {run} --damaged` removes it")
    save({"folder": str(folder), "checkpoints": rows, "damaged": aside}, json)


def verify(run: Annotated[Path, "positional"], step: tuple[CountOrZero, ...] = (), json: Path | None = None) -> None:
    """Compares every byte of a run's checkpoints with its sha256; exit 3 if one is damaged.

    Example: tigerjax checkpoint verify runs/llama2_tiny --step 50 100
    """
    from tigerjax.checkpoint.files import folder_of

    folder = folder_of(run)
    bad: list[str] = []
    rows: list[dict[str, Any]] = []
    for number in _chosen(folder, step):
        row = _row(folder, number, read=True)
        rows.append(row)
        show(f"{number:>10}  {row['state']}")
        if row["state"] != "whole":
            bad.append(str(number))
    save({"folder": str(folder), "checkpoints": rows}, json)
    if bad:
        raise DataError(f"{folder}: damaged: {', '.join(bad)}; a resumed run sets them aside and takes the one before")


def rm(
    run: Annotated[Path, "positional"],
    step: tuple[CountOrZero, ...] = (),
    damaged: bool = False,
    force: bool = False,
    dry_run: bool = False,
    json: Path | None = None,
) -> None:
    """Removes checkpoints: those of --step, and with --damaged the damaged ones.

    The newest whole checkpoint is removed only with --force: without it the run would start over. --dry-run prints what
    would be removed, and removes nothing.

    Example: tigerjax checkpoint rm runs/llama2_tiny --step 50
    """
    from tigerjax.checkpoint import files
    from tigerjax.files import lock

    folder = files.folder_of(run)
    if not step and not damaged:
        raise ConfigError("nothing to remove: give --step N … or --damaged")
    with lock.locked(folder.parent if folder.name == files.FOLDER else folder):
        _remove(folder, step, damaged=damaged, force=force, dry_run=dry_run, json=json)


def _remove(
    folder: Path, step: tuple[int, ...], *, damaged: bool, force: bool, dry_run: bool, json: Path | None
) -> None:
    from tigerjax.checkpoint import files

    chosen = _chosen(folder, step) if step else []
    newest = next((n for n in files.steps(folder) if _row(folder, n)["state"] == "whole"), None)
    if newest in chosen and not force:
        raise ConfigError(f"{newest} is the newest whole checkpoint of {folder}: the run resumes from it; or --force")
    names = [str(n) for n in chosen] + (files.damaged(folder) if damaged else [])
    for name in names:
        if not dry_run:
            files.remove(folder / name)
        show(f"{'would remove' if dry_run else 'removed'} {folder / name}")
    save({"folder": str(folder), "removed": [] if dry_run else names}, json)


def _chosen(folder: Path, wanted: tuple[int, ...]) -> list[int]:
    """The steps of a folder's checkpoints, newest first: all, or those in `wanted`. ConfigError if one is missing."""
    from tigerjax.checkpoint.files import steps

    there = steps(folder)
    if missing := [step for step in wanted if step not in there]:
        raise ConfigError(f"{folder} has no checkpoint of step {missing[0]}; there are {there or 'none'}")
    return [step for step in there if not wanted or step in wanted]


def _row(folder: Path, step: int, *, read: bool = False) -> dict[str, Any]:
    """What is shown of a checkpoint: step, bytes, kind and state, which is "whole" or what is wrong with it.

    With `read` its files are compared with their sha256.
    """
    from tigerjax.checkpoint.files import check_bytes, read_meta

    path = folder / str(step)
    row: dict[str, Any] = {"step": step, "bytes": 0, "kind": None, "state": "whole"}
    row["bytes"] = sum(paths.sizes(path).values())
    try:
        meta = read_meta(path)
        row["kind"] = meta["kind"]
        if read:
            show, done = show_progress(f"step {step}: read", "GB"), 0
            total = sum(size for name, size in meta["files"].items() if name in meta.get("sha256", {}))

            def count_bytes(count: int) -> None:
                nonlocal done
                done += count
                show(done, total)

            check_bytes(path, meta, ("weights", "opt_state"), every=True, on_bytes=count_bytes)
    except DataError as error:
        row["state"] = f"damaged: {error}"
    return row
