"""`tigerjax plan` with the real compiler, on the smallest slice."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import plan_world as world
import pytest

from tigerjax.command import cli
from tigerjax.config import MeshConfig
from tigerjax.errors import ConfigError
from tigerjax.model.numbers import layer_weights, model_flops
from tigerjax.plan import figures, topology
from tigerjax.plan.compile import Compiled, compile_for, device_peak_bytes

ROOT = Path(__file__).parents[2]
FOUR = topology.parse("v5p:2x2x1")
STABLE = {
    "peak_gb", "argument_gb", "temp_gb", "fits", "static_step_s", "attention_s", "lookup_s", "exposed_comm_s", "step_s",
    "left_out", "model_tflop_per_chip", "mfu_bound", "tokens_per_s_per_chip", "collectives", "compile_s",
}  # fmt: skip

REPORT = """Memory Space: default (color=0)
Total bytes: 269059272704 (250.58GiB)
  cumulative_size;       size;       offset; used_by_n_values; shapes_list
  ------------------------------------------------------------
  216.00GiB( 64%);    8.00GiB; 163212722176;                4; bf16[4096,2048,2,128,1], bf16[4096,2048,512]
  128.00GiB( 38%);  128.00GiB;      3964928;               16; 2×f32[1,4096,2048,2304], 4×f32[4096,2,1,2048,2048]
   12.00KiB( 76%);   12.00KiB; 154622787584;                8; s32[3072]
"""


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_for(world.config(), FOUR)


@pytest.mark.tpu
def test_the_plan_of_a_step_has_every_stable_key_and_figures_that_agree(compiled):
    run = world.config()
    shown = figures.figures(run, FOUR, compiled)
    assert set(shown) >= STABLE and json.loads(json.dumps(shown)) == shown
    assert shown["fits"] and 0 < shown["argument_gb"] < shown["peak_gb"] < FOUR.chip.hbm_bytes / 1e9
    tokens = run.global_batch_size * run.data.seq_len
    flops = model_flops(run.model, tokens=tokens, seq_len=run.data.seq_len) / 4
    assert shown["model_tflop_per_chip"] == flops / 1e12
    assert shown["mfu_bound"] == pytest.approx(flops / FOUR.chip.peak_flops / shown["step_s"])
    assert shown["tokens_per_s_per_chip"] == pytest.approx(tokens / 4 / shown["step_s"])
    parts = [shown[name] for name in ("static_step_s", "attention_s", "lookup_s", "moved_s", "exposed_comm_s")]
    assert sum(parts) == pytest.approx(shown["step_s"]) and shown["lookup_s"] > 0
    assert f"without {', '.join(shown['left_out'])}" in "\n".join(figures.lines(shown, ""))
    assert {row["axis"] for row in shown["collectives"]} == {"fsdp"}
    offloaded = "\n".join(figures.lines(shown | {"host_copy_s": 5.725, "exposed_comm_s": 4.742}, ""))
    assert " and host copies 5.725 s, of which 4.742 s not hidden" in offloaded
    days = figures.duration(shown, 1e9)
    assert days["chip_hours"] == pytest.approx(1e9 / tokens * shown["step_s"] / 3600 * 4)


@pytest.mark.tpu
def test_a_plan_for_chips_of_two_devices_counts_tokens_by_chip_and_by_device():
    chips = topology.parse("tpu7x:2x2x1")
    run = dataclasses.replace(world.config(), mesh=MeshConfig(fsdp=8))
    compiled = compile_for(run, chips)
    shown = figures.figures(run, chips, compiled)
    tokens, took = run.global_batch_size * run.data.seq_len, shown["step_s"]
    assert (shown["chips"], shown["devices"]) == (4, 8) and shown["fits"]
    assert shown["tokens_per_s_per_chip"] == pytest.approx(tokens / 4 / took)
    assert shown["tokens_per_s_per_device"] == pytest.approx(tokens / 8 / took)
    flops = model_flops(run.model, tokens=tokens, seq_len=run.data.seq_len)
    assert shown["mfu_bound"] == pytest.approx(flops / (4 * 2307e12) / took)
    assert shown["hbm_gb"] < 192 * 2**30 / 1e9 / 2  # of one device, which has half of the chip's memory
    text = "\n".join(figures.lines(shown, ""))
    assert "4 chips of 2 devices, fsdp 8" in text and "memory per device" in text
    assert f"per device {shown['tokens_per_s_per_device']:,.0f}" in text


def test_a_chip_whose_way_to_its_host_is_not_published_is_refused_for_offloading():
    base = world.config()
    run = dataclasses.replace(base, compute=dataclasses.replace(base.compute, remat="offload_qkv"))
    with pytest.raises(ConfigError, match=r"offload_qkv.*tpu7x.*choose one that does not offload"):
        compile_for(run, topology.parse("tpu7x:2x2x1"))


@pytest.mark.parametrize(
    ("arguments", "temporaries", "peak", "wanted"),
    [
        (741_082_112, 7_215_579_136, 7_835_081_408, 7_835_081_408),  # 4 layers, nothing in the host's memory
        (2_668_626_944, 6_669_877_248, 11_829_017_280, 9_338_504_192),  # 16 layers, 9.16 GB in the host's memory
    ],
)
def test_memory_of_the_host_is_not_counted_as_the_devices(arguments, temporaries, peak, wanted):
    """Bytes are those of libtpu 0.0.52, layers of a 70B on v5p with save_residual and with offload_residual."""
    said = SimpleNamespace(argument_size_in_bytes=arguments, temp_size_in_bytes=temporaries, peak_memory_in_bytes=peak)
    assert device_peak_bytes(said) == wanted


@pytest.mark.tpu
def test_arguments_are_the_sharded_state_and_batch(compiled):
    """12 bytes per weight over 4 chips; what is small and whole (norms, counters) fits in 1%."""
    model = world.MODEL
    weights = layer_weights(model) * model.num_layers + 2 * model.padded_vocab_size * model.model_dim
    batch = 5 * 4 * world.config().global_batch_size * world.config().data.seq_len
    assert compiled.argument_bytes == pytest.approx((12 * weights + batch) / 4, rel=0.01)


@pytest.mark.tpu
def test_the_layers_loop_is_counted_as_often_as_there_are_layers(compiled):
    """One gather a weight, layer and pass: what the scan's body holds runs num_layers times."""
    from tigerjax.plan.trips import Program

    assert list(Program(compiled.hlo).trips.values()).count(world.MODEL.num_layers) >= 2


@pytest.mark.tpu
def test_a_step_that_does_not_fit_shows_its_largest_buffers(capsys):
    base = world.config()
    large = dataclasses.replace(
        base,
        global_batch_size=4 * 8192,
        data=dataclasses.replace(base.data, seq_len=2048),
        compute=dataclasses.replace(base.compute, loss_chunk_tokens=2**26),
    )
    small = topology.parse("v5e:2x2")
    compiled = compile_for(large, small)
    shown = figures.figures(large, small, compiled)
    text = "\n".join(figures.lines(shown, compiled.memory_report))
    assert not shown["fits"] and "step_s" not in shown and shown["peak_gb"] > small.chip.hbm_bytes / 1e9
    assert "does not fit" in text and "GB  " in text and figures.duration(shown, 1e9) == {}


def test_buffers_are_read_from_the_report_largest_first():
    rows = figures.buffers(REPORT)
    assert [round(size, 3) for size, _ in rows] == [137.439, 8.59, 0.0]
    assert rows[0][1] == "2×f32[1,4096,2048,2304], 4×f32[4096,2,1,2048,2048]"


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tigerjax", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)


@pytest.mark.tpu
def test_the_command_sets_its_own_environment_and_writes_the_figures(tmp_path):
    bare = {name: value for name, value in os.environ.items() if name not in topology.COMPILER_ENVIRONMENT}
    out = tmp_path / "plan.json"
    words = ["plan", "tests/plan/plan_world.py", "--topology", "v5p:2x2x1", "--tokens", "1e9", "--json", str(out)]
    done = run(*words, "--model.num-layers", "2", env=bare)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "days" in done.stdout and "MFU" in done.stdout and "collective" in done.stdout
    assert set(json.loads(out.read_text(encoding="utf-8"))) >= STABLE | {"days", "chip_hours"}


@pytest.mark.tpu
@pytest.mark.slow
def test_a_search_with_the_real_compiler_ends_in_an_override_that_plans(tmp_path):
    words = ["plan", "tests/plan/plan_world.py", "--topology", "v5p:2x2x1", "--model.num-layers", "3"]
    found, again = tmp_path / "found.json", tmp_path / "again.json"
    search = ["--search", "--budget-minutes", "0.5", "--work", str(tmp_path / "work"), "--json", str(found)]
    done = run(*words, *search)
    assert done.returncode == 0, done.stderr[-2000:]
    shown = json.loads(found.read_text(encoding="utf-8"))
    assert shown["ranking"][0]["fits"] and shown["override"] in done.stdout
    best = [shown["ranking"][0], *(step for step in shown["refinement"] if step["taken"])][-1]
    given = ["--libtpu-flags", *(f"{name}={value}" for name, value in shown["libtpu_flags"].items())]
    done = run(*words, *shown["override"].split(), *given, "--json", str(again))
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(again.read_text(encoding="utf-8"))["peak_gb"] == best["peak_gb"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a config file or the folder of a run first"),
        (["configs/llama2_tiny.py"], "Missing: --topology"),
        (["configs/llama2_tiny.py", "--topology", "v5p-128"], "Cloud's name; here it is v5p:4x4x4"),
        (["configs/llama2_tiny.py", "--topology", "v5p:2x2x1", "--slices", "two"], "--slices two: invalid literal"),
        (["configs/llama2_tiny.py", "--topology", "v5p:2x2x1", "--slices", "0"], "at least 1"),
        (
            ["configs/llama2_tiny.py", "--topology", "v5p:2x2x1", "--work", "found"],
            "--work found is for --search alone",
        ),
        (["configs/llama2_tiny.py", "--topology", "v5p:2x2x1", "--budget-minutes", "1"], "leave --budget-minutes out"),
        (["configs/llama2_tiny.py", "--topology", "v5p:2x2x1", "--answers", "1"], "give 2 or more"),
    ],
)
def test_a_bad_plan_exits_2_with_one_line(words, message, capsys):
    assert cli.main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.tpu
@pytest.mark.parametrize("flag", ["xla_tpu_scoped_vmem_limit_kib=lots", "xla_tpu_scoped_vmem_limt_kib=32768"])
def test_a_flag_that_libtpu_does_not_take_exits_2_with_one_line(flag, capsys):
    words = ["tests/plan/plan_world.py", "--topology", "v5p:2x2x1", "--libtpu-flags", flag]
    assert cli.main(["plan", *words]) == 2
    assert "tigerjax: libtpu refuses a flag: " in capsys.readouterr().err


@pytest.mark.tpu
def test_a_search_gives_no_days(capsys):
    words = ["tests/plan/plan_world.py", "--topology", "v5p:2x2x1", "--search", "--tokens", "1e9"]
    assert cli.main(["plan", *words]) == 2
    assert "leave --tokens out" in capsys.readouterr().err


@pytest.mark.tpu
def test_a_mesh_that_does_not_fill_the_slice_exits_2(capsys):
    assert cli.main(["plan", "configs/llama2_tiny.py", "--topology", "v5p:2x2x1"]) == 2
    assert "change one degree" in capsys.readouterr().err


@pytest.mark.parametrize(("jax", "libtpu"), [("0.10.2", "libtpu==0.0.42.1"), ("0.12.0.1", "libtpu>=0.0.52")])
def test_without_libtpu_the_command_says_what_to_install(jax, libtpu, capsys, monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(topology.importlib.metadata, "version", {"jax": jax}.get)
    assert cli.main(["plan", "configs/llama2_tiny.py", "--topology", "v5p:2x2x1"]) == 2
    assert f"pip install '{libtpu}'" in capsys.readouterr().err


def test_help_shows_the_flags_and_an_example(capsys):
    assert cli.main(["plan", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--topology" in text and "--search" in text and "Example: tigerjax plan" in text
