"""What goes on from the fastest mesh: blocks, chunks of the loss and libtpu flags, one thing at a time.

A script stands in for the compiler of whole steps, and a function for that of the kernels. By their answers, blocks of
queries of 2,048 overflow VMEM, one backward kernel is faster than two, and it needs more memory than there is where
blocks of keys are small.
"""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import plan_world as world
import pytest

from tigerjax.command.arguments import override
from tigerjax.command.options import ConfigFile
from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError
from tigerjax.plan import flags, ranking, topology
from tigerjax.plan.kernels import KernelCall
from tigerjax.plan.refine import PLANE_GATHERS, VMEM, Refinement
from tigerjax.plan.trials import Result, Trial, Trials

FOUR = topology.parse("v5p:2x2x1")

COMPILER = """
import json, sys
words, given = sys.argv[1:], {}
for word in words:
    if word.startswith("--"):
        given[(name := word)] = []
    else:
        given[name].append(word)
with open("LOG", "a") as log:
    log.write(" ".join(words) + "\\n")
flags = dict(word.split("=") for word in given.get("--libtpu-flags", []))
blocks = lambda name, default: int(given.get("--compute.splash." + name, [default])[0])
fused = given.get("--compute.splash.fused-backward") == []
peak = 50.0 + (MEMORY if fused else 0)
static = 10.0 - (1.0 if given.get("--compute.loss-chunk-tokens") == ["8192"] else 0)
static -= {"61440": 0.5, "49152": 0.0, "32768": -0.5, "16384": -1}[flags.get("xla_tpu_scoped_vmem_limit_kib", "49152")]
static += PLANE in flags
attention = 7.0 - blocks("block-q", 512) / 1024 - 2 * fused - blocks("block-kv-dkv", 1024) / 1024
figures = {"fits": peak < 100, "peak_gb": peak}
if figures["fits"]:
    figures |= {"static_step_s": static, "attention_s": attention, "step_s": static + attention, "mfu_bound": 0.5}
    figures |= {"tokens_per_s_per_chip": 1000 / (static + attention), "splash_calls": CALLS}
open(given["--json"][0], "w").write(json.dumps(figures))
"""
SHAPE = KernelCall("fwd", 2, 8, 4096, 4096, 8, 128)
CALLS = [
    SHAPE._replace(phase=phase)._asdict() | {"runs": runs, "seconds": seconds}
    for phase, runs, seconds in (("dkv", 2, 1.0), ("dq", 2, 1.0), ("fwd", 4, 0.5))
]


def base() -> RunConfig:
    run = world.config()
    return dataclasses.replace(
        run,
        compute=dataclasses.replace(run.compute, attention="splash", loss_chunk_tokens=16_384),
        data=dataclasses.replace(run.data, seq_len=4096),
    )


@pytest.fixture
def refined(tmp_path):
    """Refines from the base config, which it compiles first, and returns (the first result, the steps)."""
    ran: list[tuple] = []

    def time_kernels(calls, chip, c, window, options, timeout_s):
        ran.append((c, sorted(calls)))
        assert chip is FOUR.chip and options == flags.of(FOUR) and timeout_s == 60.0
        if c.block_q == 2048:
            raise ConfigError("the attention kernels do not compile alone: RESOURCE_EXHAUSTED: VMEM")
        if c.block_q == c.block_kv == 512:
            raise subprocess.TimeoutExpired("x", timeout_s)
        both = 0.6 if c.fused_backward else 1.0
        took = {"fwd": 256 / c.block_q, "dkv": both * 1024 / c.block_kv_dkv, "dq": 1.0 + c.block_q_dq / 4096}
        return {call: took[call.phase] for call in calls}

    def go(*, memory=60.0, budget_s=600.0, run=None):
        script = tmp_path / "compiler.py"
        text = COMPILER.replace("LOG", str(tmp_path / "log")).replace("MEMORY", str(memory))
        text = text.replace("CALLS", repr(CALLS)).replace("PLANE", repr(PLANE_GATHERS))
        script.write_text(text, encoding="utf-8")
        trials = Trials(
            base=run or base(),
            topology=FOUR,
            command=[sys.executable, "-S", "-E", str(script)],
            work=tmp_path / f"w{memory}",
            limit_s=60.0,
        )
        trials.work.mkdir(exist_ok=True)
        trial = Trial(trials.base, 2, 0.0, 0.0)
        first = Result(trial, trials.figures(trial, time.monotonic() + 600))
        echoed: list[str] = []
        until = time.monotonic() + budget_s
        one = Refinement(trials=trials, best=first, until=until, echo=echoed.append, time_kernels=time_kernels)
        return first, one.steps(), echoed, trials

    go.ran = ran
    go.log = lambda: (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    return go


def test_each_thing_starts_from_the_best_before_it_and_what_is_faster_is_taken(refined):
    first, steps, echoed, trials = refined(memory=0.0)
    best = [step for step in steps if step.taken][-1]
    splash = best.result.candidate.config.compute.splash
    # The best of each kernel, whichever blocks they were timed with; one backward kernel leaves the blocks of dq.
    assert splash.fused_backward and (splash.block_q, splash.block_kv_dkv) == (1024, 2048)
    assert splash.block_q_dq == 512
    assert best.result.candidate.config.compute.loss_chunk_tokens == 8192
    assert trials.given(best.result.candidate) == {VMEM: "61440"}
    whats = [(step.what, step.taken) for step in steps]
    assert [what for what, taken in whats if taken] == ["kernel blocks", "loss chunk", "scoped VMEM"]
    assert [step.choice for step in steps if step.what == "loss chunk"] == [
        "4,096 tokens",
        "8,192 tokens",
        "32,768 tokens",
    ]  # a micro-batch of 8 rows has 32,768
    assert [step.choice for step in steps if step.what == "scoped VMEM"] == ["16 MiB", "32 MiB", "60 MiB"]
    assert steps[-1].what == "2D gathers" and steps[-1].choice == "off" and not steps[-1].taken
    gains = sum(step.gain_s for step in steps if step.taken)
    assert gains == pytest.approx(first.figures["step_s"] - best.result.figures["step_s"])
    assert any("refused: the attention kernels" in text and "2048 x 2048" in text for text in echoed)


def test_where_one_backward_kernel_does_not_fit_the_best_of_two_is_taken(refined):
    _, steps, *_ = refined(memory=60.0)
    blocks = [step for step in steps if step.what == "kernel blocks"]
    assert [step.result.figures["fits"] for step in blocks] == [False, True] and blocks[1].taken
    assert blocks[0].gain_s is None
    splash = blocks[1].result.candidate.config.compute.splash
    assert not splash.fused_backward and (splash.block_q, splash.block_kv_dkv, splash.block_q_dq) == (1024, 2048, 512)


def test_only_blocks_that_divide_the_row_are_timed_and_no_large_ones_in_a_short_row(refined):
    run = base()
    refined(run=dataclasses.replace(run, data=dataclasses.replace(run.data, seq_len=3072)))
    assert refined.ran and {c.block_q for c, _ in refined.ran} == {512, 1024}
    assert {max(c.block_kv, c.block_kv_dkv) for c, _ in refined.ran} == {512, 1024}
    for c, calls in refined.ran:
        assert [call.phase for call in calls] == (["dkv", "fwd"] if c.fused_backward else ["dkv", "dq", "fwd"])
    refined.ran.clear()
    refined(run=run)
    assert max(c.block_kv for c, _ in refined.ran) == 2048
    refined(run=dataclasses.replace(run, data=dataclasses.replace(run.data, seq_len=16_384)))
    assert max(c.block_kv for c, _ in refined.ran) == 4096


def test_it_goes_on_where_it_stopped_and_reads_what_is_there(refined):
    _, steps, echoed, _ = refined(budget_s=-1.0)
    assert not steps and not refined.ran and len(refined.log()) == 1
    assert [text for text in echoed if "the same command resumes" in text]
    _, steps, *_ = refined()
    # Of what was not compiled in time, a longer search would try again; this one has the same limit.
    ran, compiled = len(refined.ran), len(refined.log())
    assert compiled == 1 + len(steps)
    _, again, *_ = refined()
    assert again == steps and len(refined.ran) == ran and len(refined.log()) == compiled


def test_without_splash_no_kernel_is_timed_and_without_sparse_cores_gathers_stay(refined, monkeypatch):
    monkeypatch.setattr(flags, "of", lambda where: {})
    monkeypatch.setattr(sys.modules[__name__], "CALLS", [])
    _, steps, *_ = refined()
    assert not refined.ran and {step.what for step in steps} == {"loss chunk", "scoped VMEM"}


def test_the_ranking_ends_in_overrides_and_the_line_of_flags(refined, tmp_path, capsys, monkeypatch):
    *_, trials = refined(memory=0.0)
    monkeypatch.setattr(ranking, "self_command", lambda *_: trials.command)
    monkeypatch.setattr(ranking, "search", lambda trials, **_: [refined(memory=0.0)[0]])
    shown = ranking.rank(base(), tmp_path / "c.py", FOUR, words=[], work=trials.work, budget_s=30.0)
    assert json.dumps(shown)
    out = capsys.readouterr().out
    assert f"override of {tmp_path / 'c.py'}:\n{shown['override']}\n" in out
    assert "--compute.loss-chunk-tokens 8192" in shown["override"]
    assert shown["libtpu_flags"] == flags.of(FOUR) | {VMEM: "61440"}
    line = next(text for text in out.splitlines() if text.startswith("LIBTPU_INIT_ARGS="))
    assert f"--{VMEM}=61440" in line and "49152" not in line and "offload_2d" in line
    assert f"--libtpu-flags {VMEM}=61440\n" in out
    taken = [step for step in shown["refinement"] if step["taken"]]
    assert taken[-1]["override"] == shown["override"] and all(step["gain_s"] > 0 for step in taken)


def test_flags_of_the_command_line_are_those_of_every_trial_and_what_is_none_is_refused():
    assert flags.given(["xla_a=1", "xla_b=true"]) == {"xla_a": "1", "xla_b": "true"}
    with pytest.raises(ConfigError, match="--libtpu-flags 'xla_a' must be name=value"):
        flags.given(["xla_a"])
    assert flags.line({"xla_a": "1", "xla_b": "true"}) == "LIBTPU_INIT_ARGS='--xla_a=1 --xla_b=true'"


def test_the_overrides_of_blocks_make_their_config_on_the_command_line():
    """`--compute.splash.fused-backward True` was refused, since a switch takes no value."""
    had = world.config()
    splash = dataclasses.replace(had.compute.splash, block_q=128, fused_backward=True)
    fused = dataclasses.replace(had, compute=dataclasses.replace(had.compute, splash=splash))
    for base, want, switch in ((had, fused, "fused-backward"), (fused, had, "no-fused-backward")):
        words = Trial(want, 1, 0.0, 0.0).overrides(base)
        assert f"--compute.splash.{switch}" in words and len(words) == 3
        assert override(ConfigFile(Path(world.__file__), words, "tigerjax plan")) == want
