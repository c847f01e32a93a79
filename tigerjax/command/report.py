"""The command that writes the page of a run, of an alignment or of the quick start."""

from pathlib import Path
from typing import Annotated

from tigerjax.command.figures import save
from tigerjax.errors import DataError
from tigerjax.terminal import show


def report(run_dir: Annotated[Path, "positional"], json: Path | None = None) -> None:
    """Writes RUN_DIR/report.html: curves, shares, speed, rounds, samples and lineage.

    Its table is printed too. RUN_DIR is a folder of `tigerjax quickstart`, `tigerjax train` or `tigerjax align init`.
    The figures are read from its report.json, which is written first from the logged steps of a run, or from the
    finished rounds of an alignment.

    Example: tigerjax report runs/quickstart
    """
    from tigerjax.align import settings, summary
    from tigerjax.files import manifest, own
    from tigerjax.report import lineage, print_table, render, runs

    source = run_dir / "report.json"
    if (run_dir / settings.FILE).is_file():
        manifest.write_json(source, summary.collect(run_dir))
    elif (metrics := run_dir / runs.METRICS).is_file():
        with own.fields(metrics, "remove the lines that are wrong"):
            logged = runs.of_run(run_dir)
        manifest.write_json(source, logged)
    if not source.is_file():
        raise DataError(f"{source} does not exist; give a folder of `tigerjax quickstart`, `train` or `align init`")
    values = own.read_object(source, "write it again")
    with own.fields(source, "it, or a file that it is made of, is not that of a run; write it again"):
        values |= runs.collect(run_dir) | {"lineage": lineage.collect(run_dir)}
        render(values, run_dir / "report.html")
        print_table(values)
    show(f"wrote {run_dir / 'report.html'}")
    save(values, json)
