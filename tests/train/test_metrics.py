"""The log line, MFU and the metrics file."""

import json

from tiny_run import tiny_config

from tigerjax.config import ModelConfig
from tigerjax.model.numbers import model_flops
from tigerjax.train.metrics import MetricsWriter, Reporting, log_line, mfu, progress_at

RECORD = {
    "step": 1200, "loss_nats": 1.7134, "grad_norm": 0.842, "lr": 9.2e-6, "tokens_per_s": 412_300.0, "mfu": 0.471,
    "data_wait_share": 0.003, "shares": {"zh": 0.5},
}  # fmt: skip
LINE = "step 1200/3000  loss 1.713 nats  grad 0.84  lr 9.2e-06  412k tok/s  MFU 47.1%  data 0.3%"


def test_the_log_line_is_the_one_of_the_style_page():
    assert log_line(RECORD, 3000) == LINE


def test_mfu_is_left_out_where_the_peak_is_not_known():
    assert mfu(1e12, "cpu", 1) is None
    assert log_line(RECORD | {"mfu": None}, 3000) == LINE.replace("  MFU 47.1%", "")
    assert mfu(459e12, "TPU v5p", 2) == 0.5


def test_model_flops_are_six_a_matmul_parameter_and_causal_attention():
    seven_b = ModelConfig(
        num_layers=32, model_dim=4096, mlp_dim=11008, num_heads=32, num_kv_heads=32, head_dim=128, vocab_size=32000,
        padded_vocab_size=32000, rope_base=10000.0, norm_eps=1e-5,
    )  # fmt: skip
    embed, norms = 32000 * 4096, 65 * 4096
    assert model_flops(seven_b, tokens=1, seq_len=0) == 6 * (6_738_415_616 - embed - norms)
    assert model_flops(seven_b, tokens=3, seq_len=10) - model_flops(seven_b, tokens=3, seq_len=0) == 6 * 32 * 4096 * 30


def test_lines_that_a_killed_run_left_after_its_checkpoint_are_removed(tmp_path):
    lines = [json.dumps({"step": i}) for i in range(1, 6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"ste')
    said = []
    writer = MetricsWriter(
        tmp_path, name="t", start_step=3, total_steps=9, reporting=Reporting(progress=False, echo=said.append)
    )
    writer.write(RECORD | {"step": 4, "loss_nats": float("nan")})
    writer.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [1, 2, 3, 4]
    assert records[-1]["loss_nats"] is None and "loss nan nats" in said[0]
    assert list((tmp_path / "tensorboard").glob("events*"))
    told = (tmp_path / "metrics.prom").read_text().splitlines()
    assert (
        f'tigerjax_step{{run="{tmp_path.name}"}} 4' in told
        and f'tigerjax_loss_nats{{run="{tmp_path.name}"}} nan' in told
    )
    assert f'tigerjax_share{{run="{tmp_path.name}",source="zh"}} 0.5' in told


def test_the_tiny_run_has_a_flop_count_by_hand():
    c = tiny_config().model
    layer = 32 * 4 * 10 * 2 + 32 * 2 * 10 * 2 + 3 * 32 * 48
    assert model_flops(c, tokens=1, seq_len=16) == 6 * (2 * layer + 32 * 64 + 2 * 40 * 16)


def test_progress_is_the_share_of_the_fall_and_unknown_where_nothing_can_be_said(tmp_path):
    def logged(*losses, start=5.0):
        records = [{"step": 10 * i, "loss_nats": loss} for i, loss in enumerate(losses, start=1)]
        records[0] |= {} if start is None else {"start_loss_nats": start}
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    assert progress_at(tmp_path, 20) is None
    logged(5.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert progress_at(tmp_path, 20) == 0.5
    assert progress_at(tmp_path, 39.9) == 0.75  # the mean of 3 and 1
    assert progress_at(tmp_path, 70) == 1.0
    assert progress_at(tmp_path, 19) is None and progress_at(tmp_path, 71) is None
    logged(50.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert progress_at(tmp_path, 20) == 0.5  # a first logged batch that stands out changes nothing
    logged(5.0, 3.0, 1.0, start=None)
    assert progress_at(tmp_path, 20) is None  # of an older version, or resumed before the first record
    logged(1.0, 2.0, 3.0, start=1.0)
    assert progress_at(tmp_path, 20) is None  # it rose
    logged(5.0, None, 3.0, 1.0)
    assert progress_at(tmp_path, 30) == (5 - 3) / (5 - 2)
