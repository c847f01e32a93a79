"""The search: what arithmetic rules out, what results rule out, and that it goes on where it stopped.

A script stands in for the compiler and answers at once. By its answers, a policy that saves more than save_attention
does not fit.
"""

import dataclasses
import json
import math
import sys

import plan_world as world
import pytest

from tigerjax.config import RunConfig, dump
from tigerjax.errors import ConfigError
from tigerjax.files import paths
from tigerjax.plan import ranking, topology
from tigerjax.plan.search import enumerate_candidates, implied, least_memory, search
from tigerjax.plan.trials import Result, Trial, Trials, key

FOUR = topology.parse("v5p:2x2x1")
CUBE = topology.parse("v5p:4x4x4")

COMPILER = """
import json, sys
words = sys.argv[1:]
given = dict(zip(words[::2], words[1::2]))
with open("LOG", "a") as log:
    log.write(" ".join(words) + "\\n")
remat = given.get("--compute.remat", "full")
tensor = int(given.get("--mesh.tensor", 1))
if remat == "save_up":
    sys.exit("tigerjax: VMEM overflow")
fits = remat == "full" or remat == "save_attention" or remat.startswith("offload")
rate = 1000.0 / tensor + 10.0 * (remat == "save_attention") - 500.0 * remat.startswith("offload")
figures = {"fits": fits, "peak_gb": 1.0}
if fits:
    figures |= {"tokens_per_s_per_chip": rate, "mfu_bound": 0.5, "step_s": 1.0, "static_step_s": 0.9}
    figures["attention_s"] = 0.1
open(given["--json"], "w").write(json.dumps(figures))
"""


@pytest.fixture
def command(tmp_path):
    script = tmp_path / "compiler.py"
    script.write_text(COMPILER.replace("LOG", str(tmp_path / "log")), encoding="utf-8")
    return [sys.executable, "-S", "-E", str(script)]


def base() -> RunConfig:
    """Three layers: no pipeline divides them over four chips, which keeps the search small."""
    run = world.config()
    return dataclasses.replace(run, model=dataclasses.replace(run.model, num_layers=3))


def runs(tmp_path) -> list[str]:
    log = tmp_path / "log"
    return log.read_text(encoding="utf-8").splitlines() if log.is_file() else []


def trials(command, work, budget_s=600.0) -> Trials:
    return Trials(base=base(), topology=FOUR, command=command, work=work, limit_s=max(60.0, 2 * budget_s))


def go(command, tmp_path, budget_s=600.0) -> list[Result]:
    return search(trials(command, tmp_path / "w", budget_s), budget_s=budget_s, echo=lambda text: None)


def test_every_candidate_keeps_the_batch_and_fills_the_slice():
    large = world.seven_billion()
    candidates, left_out = enumerate_candidates(large, CUBE)
    assert len(candidates) > 50 and left_out["refused by the config"] > 0
    _, none_fits = enumerate_candidates(large, FOUR)
    assert none_fits["cannot fit"] > left_out["cannot fit"]
    for c in candidates:
        data, stage, fsdp, sequence, tensor = c.mesh
        assert data * stage * fsdp * sequence * tensor == CUBE.chips and sequence == 1
        assert c.config.global_batch_size == large.global_batch_size
        assert c.rows * data * stage * fsdp * c.config.optim.gradient_accumulation_steps == large.global_batch_size
        assert c.memory <= CUBE.chip.hbm_bytes
    assert [c.seconds for c in candidates] == sorted(c.seconds for c in candidates)


def test_only_long_rows_are_cut_along_their_length_and_no_share_is_short():
    large = world.seven_billion()
    data = dataclasses.replace(large.data, seq_len=32_768)
    candidates, _ = enumerate_candidates(dataclasses.replace(large, data=data, global_batch_size=64), CUBE)
    assert {c.config.mesh.sequence for c in candidates} == {1, 2, 4, 8}
    assert {math.prod(c.mesh) for c in candidates} == {CUBE.chips}
    # State and saved activations are split over all chips, whichever axis splits them.
    whole = [c for c in candidates if c.config.mesh.stage == 1 and c.config.optim.gradient_accumulation_steps == 1]
    memory = {c.config.mesh.sequence: c.memory for c in whole if c.config.compute.remat == "full"}
    assert len(memory) == 4 and list(memory.values()) == pytest.approx([memory[1]] * 4)


def test_on_chips_of_two_devices_the_mesh_fills_the_devices_and_nothing_is_offloaded():
    """No bandwidth between a tpu7x and its host is published, so a step that offloads cannot be timed."""
    candidates, _ = enumerate_candidates(world.seven_billion(), topology.parse("tpu7x:2x2x4"))
    assert candidates and {math.prod(c.mesh) for c in candidates} == {32}
    assert not any(c.config.compute.remat.startswith("offload") for c in candidates)


def test_memory_by_arithmetic_is_state_and_saved_activations():
    """7B on 64 chips, two rows each, full remat: 12 bytes per weight over 64, and each layer's input in bfloat16."""
    large = dataclasses.replace(world.seven_billion(), global_batch_size=128)
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 2 * 32_000 * 4096
    assert least_memory(large) == pytest.approx(12 * weights / 64 + 2 * 4096 * 32 * 4096 * 2)


def test_overrides_name_exactly_what_differs():
    had = world.config()
    compute = dataclasses.replace(had.compute, remat="save_attention")
    want = dataclasses.replace(had, compute=compute, global_batch_size=16)
    words = Trial(want, 1, 0.0, 0.0).overrides(had)
    assert words == ["--compute.remat", "save_attention", "--global-batch-size", "16"]


def test_what_did_not_fit_rules_out_more_and_a_fit_rules_out_less():
    run = world.config()
    remat = {
        name: Trial(dataclasses.replace(run, compute=dataclasses.replace(run.compute, remat=name)), 2, 0.0, 0.0)
        for name in ("full", "save_attention", "none")
    }
    too_large = [Result(remat["save_attention"], {"fits": False})]
    assert implied(remat["none"], too_large) and not implied(remat["full"], too_large)
    assert implied(remat["save_attention"]._replace(rows=4), too_large)
    assert not implied(remat["save_attention"]._replace(rows=1), too_large)
    fits = [Result(remat["save_attention"], {"fits": True})]
    assert implied(remat["full"], fits) and not implied(remat["none"], fits)
    assert not implied(remat["full"], [Result(remat["save_attention"], {"fits": None, "error": "VMEM"})])


def test_the_fastest_that_fits_comes_first(command, tmp_path):
    results = go(command, tmp_path)
    best = results[0]
    assert best.candidate.config.compute.remat == "save_attention" and best.candidate.mesh[-1] == 1
    assert any(r.figures.get("error") == "tigerjax: VMEM overflow" for r in results)
    # Where `save_attention` fits, `full` is needless: it is the base, so a run that names no policy.
    assert all("--compute.remat" in run for run in runs(tmp_path))


def test_a_search_goes_on_where_it_stopped(command, tmp_path):
    assert go(command, tmp_path, budget_s=-1.0) == [] and runs(tmp_path) == []
    results = go(command, tmp_path)
    first = len(runs(tmp_path))
    assert first > 0 and go(command, tmp_path) == results and len(runs(tmp_path)) == first


def test_a_longer_search_tries_again_what_a_shorter_one_had_no_time_to_compile(command, tmp_path):
    """The result was kept, so a larger budget never helped."""
    results = go(command, tmp_path)
    first = len(runs(tmp_path))
    best = tmp_path / "w" / f"{key(results[0].candidate.config, FOUR)}.json"
    for given_up_after_s, more in ((1200.0, 0), (60.0, 1)):
        best.write_text(json.dumps({"fits": None, "error": "late", "given_up_after_s": given_up_after_s}))
        again = go(command, tmp_path)
        assert len(runs(tmp_path)) >= first + more and any(r.figures.get("error") == "late" for r in again) != more
    assert again == results


def test_a_search_ends_at_the_first_candidate_whose_flag_libtpu_refuses(tmp_path):
    script = tmp_path / "refuses.py"
    script.write_text("import sys\nsys.exit('tigerjax: libtpu refuses a flag: No such compile option: x')")
    with pytest.raises(ConfigError, match=r"^libtpu refuses a flag: No such compile option: x$"):
        go([sys.executable, "-S", "-E", str(script)], tmp_path)
    assert len(list((tmp_path / "w").iterdir())) == 1


def test_a_search_in_a_bucket_goes_on_and_what_the_bucket_refuses_is_no_result(command, tmp_path, cloud):
    def go_on():
        where = trials(command, paths.of("gs://bucket/plans"))
        return search(where, budget_s=600.0, echo=lambda text: None)

    cloud.refuse = lambda method, name: 403 if method == "POST" else None
    with pytest.raises(OSError, match="Forbidden"):
        go_on()
    assert not cloud.objects and len(runs(tmp_path)) == 1
    cloud.refuse = lambda method, name: None
    results = go_on()
    ran = len(runs(tmp_path))
    assert results == go(command, tmp_path) and ran < len(runs(tmp_path))
    ran = len(runs(tmp_path))
    assert go_on() == results and len(runs(tmp_path)) == ran


def test_a_result_belongs_to_its_config_and_slice():
    run = world.config()
    assert key(run, FOUR) == key(dataclasses.replace(run, name="other_name"), FOUR)
    assert len({key(run, FOUR), key(run, CUBE), key(dataclasses.replace(run, global_batch_size=16), FOUR)}) == 3
    assert key(run, FOUR) != key(run, topology.parse("v5p:2x2x1", slices=2))
    assert key(run, FOUR) != key(run, FOUR, {"xla_tpu_scoped_vmem_limit_kib": "1024"})


def test_the_ranking_prints_the_override_line_and_writes_it(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ranking, "self_command", lambda *_: command)
    shown = ranking.rank(base(), tmp_path / "c.py", FOUR, words=[], work=tmp_path / "w", budget_s=600.0)
    printed = capsys.readouterr().out
    assert shown["override"] in printed and "--compute.remat save_attention" in shown["override"]
    assert shown["ranking"][0]["fits"] and json.dumps(shown)
    changed = dict(zip(shown["override"].split()[::2], shown["override"].split()[1::2], strict=True))
    assert all(any(line.startswith(k[2:].replace("-", "_")) for line in dump(base())) for k in changed)


def test_a_search_in_which_nothing_fits_says_what_to_change(command, tmp_path, monkeypatch):
    script = tmp_path / "compiler.py"
    script.write_text("import sys\nsys.exit('no')\n", encoding="utf-8")
    monkeypatch.setattr(ranking, "self_command", lambda *_: command)
    with pytest.raises(ConfigError, match=r": 0 need more memory, and [1-9]\d* were not compiled .* more chips"):
        ranking.rank(base(), tmp_path / "c.py", FOUR, words=[], work=tmp_path / "w", budget_s=600.0)
