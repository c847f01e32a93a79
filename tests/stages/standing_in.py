"""A stand-in for Slurm's programs: elements of an array are processes of this machine, started by `sbatch`."""

import sys
from pathlib import Path

SBATCH = """#!{python}
import os, pathlib, subprocess, sys
state = pathlib.Path({state!r})
if (state / "refuses").exists():
    sys.exit("sbatch: error: invalid partition specified: gpu")
script = sys.stdin.read()
given = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
job = str(len(list(state.glob("job-*"))) + 1)
first, last = map(int, given["array"].split("-"))
(state / f"job-{{job}}").write_text(" ".join(sys.argv[1:]))
procs = []
for element in range(first, last + 1):
    log = open(given["output"].replace("%A", job).replace("%a", str(element)), "w")
    env = os.environ | {{"SLURM_ARRAY_TASK_ID": str(element)}}
    procs.append(subprocess.Popen(["/bin/sh", "-c", script], env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
(state / f"pids-{{job}}").write_text(" ".join(str(p.pid) for p in procs))
print(job)
"""
SQUEUE = """#!{python}
import pathlib, sys
state = pathlib.Path({state!r})
job = next(word for word in sys.argv if word.startswith("--jobs=")).partition("=")[2]
if (state / "silent").exists():
    (state / "silent").unlink()
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
alive = []
for pid in (state / f"pids-{{job}}").read_text().split():
    stat = pathlib.Path("/proc", pid, "stat")
    if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        alive.append(pid)
if not alive:
    sys.exit("slurm_load_jobs error: Invalid job id specified")
print(*alive, sep="\\n")
"""
SCANCEL = """#!{python}
import os, pathlib, signal, sys
state = pathlib.Path({state!r})
(state / f"cancelled-{{sys.argv[1]}}").touch()
for pid in (state / f"pids-{{sys.argv[1]}}").read_text().split():
    try:
        os.kill(int(pid), signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


def install(folder: Path) -> Path:
    """Writes the programs to FOLDER/bin, and returns it; they keep their state in FOLDER."""
    (folder / "bin").mkdir(parents=True)
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        program = folder / "bin" / name
        program.write_text(text.format(python=sys.executable, state=str(folder)))
        program.chmod(0o755)
    return folder / "bin"
