"""The recipe from raw text to an aligned model in Hugging Face's format, stage by stage, then its report.

Every stage writes a folder below OUT with a manifest. It is skipped when its inputs and config are unchanged, so an
interrupted quick start continues where it was. Every figure of the report is measured in the run.
"""

import os
from pathlib import Path
from typing import Any

from rich.console import Console

import tigerjax
from tigerjax.files import manifest
from tigerjax.files.lock import locked_beside
from tigerjax.quickstart import parity, rejection, text, training
from tigerjax.quickstart.answers import accuracy, samples
from tigerjax.quickstart.state import Adjust, Quickstart, claim
from tigerjax.terminal import show

XLA_FLAGS = "--xla_cpu_experimental_ynn_fusion_type="
"""Turns off the YNNPACK fusions that XLA makes on a CPU by default: at these sizes XLA's own products are faster.
Compare `benchmarks/speed/train_step.py --dtype float32 --remat none --rows 8 --seq-len 64 --vocab 2304` with and
without."""


def quickstart(out: Path, *, seed: int, adjust: Adjust = lambda config: config) -> dict[str, Any]:
    """Runs all stages and returns the report; `adjust` changes the training configs (tests make them shorter).

    ConfigError while another quick start runs in OUT.
    """
    with locked_beside(out):
        return _run(out, seed, adjust)


def _run(out: Path, seed: int, adjust: Adjust) -> dict[str, Any]:
    from data_mixtures import quickstart as mixtures

    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)  # read when JAX looks for devices, later
    claim(out)
    report: dict[str, Any] = {"version": tigerjax.__version__, "seed": seed, "config": {}, "curves": {}, "accuracy": {}}
    quick = Quickstart(out, seed, adjust, Console(stderr=True), report)
    mixtures.register(out)

    with quick.stage("clean and deduplicate"):
        report["data"] = text.prepare_text(out)
    with quick.stage("tokenizer"):
        report["tokenizer"] = text.make_tokenizers(quick)
    models = {}
    for name in ("base", "holistic", "sft"):
        models[name] = out / name
        with quick.stage(f"train {name}"):
            training.train(quick, name)
        with quick.stage(f"ask {name}"):
            report["accuracy"][name] = accuracy(quick, models[name], chat=name == "sft")
    with quick.stage("reward model"):
        rejection.train_reward(quick)
    with quick.stage("rejection sampling round"):
        models["rejection_sampled"] = rejection.run_round(quick)
        report["curves"]["rejection_sampled"] = training.curve(models["rejection_sampled"])
        report["accuracy"]["rejection_sampled"] = accuracy(quick, models["rejection_sampled"], chat=True)
    with quick.stage("control: as many steps, no winners"):
        training.train(quick, "control")
        report["accuracy"]["control"] = accuracy(quick, out / "control", chat=True)
    before, after = (report["accuracy"][name] for name in ("sft", "rejection_sampled"))
    report["true_reward"] = [
        {"round": 1, "before": before["mean_true_reward"], "after": after["mean_true_reward"], "n": after["n"]}
    ]
    with quick.stage("Hugging Face export and parity"):
        report |= parity.hugging_face(quick, models["rejection_sampled"])

    report["samples"] = samples(quick, models)
    report["total_seconds"] = round(sum(report["seconds"].values()), 1)
    from tigerjax.report import lineage, print_table, render, runs

    report |= runs.collect(out) | {"lineage": lineage.collect(out)}

    manifest.write_json(out / "report.json", report)
    render(report, out / "report.html")
    print_table(report)
    show(f"wrote {out}/report.json and {out}/report.html; the Hugging Face model is in {out}/hf")
    return report
