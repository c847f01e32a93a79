"""Adapters beside PEFT's own: the same losses over 20 steps, and folders that each reads of the other."""

import dataclasses
import json
import os

import numpy as np
import pytest
from test_lora import LORA, MODEL, SILENT, base_weights, lora_config
from tiny_run import LENGTH, ROWS, VOCAB, TinyLoader

from tigerjax.checkpoint.arrays import open_arrays
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.command.cli import main
from tigerjax.config import LoraConfig, WeightsConfig
from tigerjax.convert import hf
from tigerjax.data.rows import make_batch, make_row
from tigerjax.mesh import run_mesh
from tigerjax.model import adapters
from tigerjax.model.llama.face import FAMILY
from tigerjax.model.weights import MATRIX_PATHS, get
from tigerjax.train.loop import train
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.schedule import learning_rate
from tigerjax.train.state import state_from_weights

pytestmark = [pytest.mark.peers("peft"), pytest.mark.slow]

STEPS = 20
LOSS = 1e-4  # nats, in float32: the bound
LOGITS = 1e-5
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SAME_UPDATES = dict(clip_norm=None, weight_decay=0.1, eps=1e-8)


def whole_rows(index):
    """Of batch `index`: one text that counts upwards in each row, as transformers reads it."""
    starts = np.random.default_rng([3, index]).integers(0, VOCAB, ROWS)
    return [(start + np.arange(LENGTH) * (1 + start % 3)) % VOCAB for start in starts]


class WholeRows(TinyLoader):
    def __next__(self):
        rows = whole_rows(self.index)
        self.index += 1
        ones = np.ones(LENGTH)
        return make_batch([make_row(row, ones.astype(int), ones.astype(np.float32)) for row in rows])


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """(our base, the same model as a Hugging Face folder)"""
    folder = tmp_path_factory.mktemp("both")
    model = lora_config().model
    save_model(folder / "ours", base_weights(), model, tokenizer_sha256="one")
    hf.to_hf(base_weights(), model, folder / "theirs", hf.Export(tokenizer=None))
    return folder / "ours", folder / "theirs"


def wrapped(theirs, config, lora):
    """PEFT's model around the base, with our first adapters in it."""
    import peft
    import torch
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(theirs)
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, use_rslora=lora.rank_stabilised, target_modules=MODULES, lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model = peft.get_peft_model(base, settings)
    mesh = run_mesh(config)
    state = state_from_weights(
        token_objective(config, mesh), make_optimizer(config.optim), mesh, base_weights(), seed=config.seed
    )
    left = dict(model.named_parameters())
    for target, path in MATRIX_PATHS.items():
        a = np.asarray(get(state.weights, path + adapters.A))
        for layer in range(MODEL["num_layers"]):
            room = "mlp" if target in ("gate", "up", "down") else "self_attn"
            name = f"base_model.model.model.layers.{layer}.{room}.{target}_proj.lora_A.default.weight"
            with torch.no_grad():
                left[name].copy_(torch.from_numpy(a[layer].reshape(-1, lora.rank).T.copy()))
    return model


@pytest.mark.parametrize("rank_stabilised", [False, True], ids=["plain", "rank-stabilised"])
def test_twenty_steps_have_the_losses_of_peft(given, tmp_path, rank_stabilised):
    import torch

    ours, theirs = given
    lora = dataclasses.replace(LORA, rank_stabilised=rank_stabilised)
    config = lora_config(ours, lora=lora, total_steps=STEPS, every_steps=STEPS)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, **SAME_UPDATES))
    train(config, WholeRows(), run_dir=tmp_path / "run", reporting=SILENT)
    model = wrapped(theirs, config, lora)
    own = [w for w in model.parameters() if w.requires_grad]
    c = config.optim
    updates = torch.optim.AdamW(own, lr=1.0, betas=(c.beta1, c.beta2), eps=c.eps, weight_decay=c.weight_decay)
    losses = []
    for step in range(STEPS):
        tokens = torch.from_numpy(np.stack(whole_rows(step))).long()
        for group in updates.param_groups:
            group["lr"] = float(learning_rate(c, step))
        loss = model(input_ids=tokens, labels=tokens).loss
        updates.zero_grad()
        loss.backward()
        updates.step()
        losses.append(float(loss.detach()))
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    found = [json.loads(line)["loss_nats"] for line in lines]
    np.testing.assert_allclose(found, losses, atol=LOSS)
    assert losses[-1] < losses[0] - 0.3


def ours_logits(weights, tokens_BT):
    config = lora_config()
    T = tokens_BT.shape[1]
    args = tokens_BT, np.broadcast_to(np.arange(T), tokens_BT.shape), np.ones_like(tokens_BT)
    model = FAMILY.language_model(config.model, config.compute)
    return np.asarray(model.apply({"params": weights}, *args))[..., :VOCAB]


def test_peft_loads_an_exported_adapter_and_has_our_logits(given, tmp_path):
    import peft
    import torch
    import transformers

    ours, theirs = given
    weights = WeightsConfig(trained=("embed[40:]", "head"))
    config = lora_config(ours, weights=weights, total_steps=3, every_steps=3)
    train(config, WholeRows(), run_dir=tmp_path / "run", reporting=SILENT)
    assert main(["convert", "to-hf", str(tmp_path / "run"), str(tmp_path / "peft"), "--adapter", "--verify"]) == 0
    assert sorted(os.listdir(tmp_path / "peft")) == [
        "adapter_config.json", "adapter_model.safetensors", "manifest.json",
    ]  # fmt: skip
    base = transformers.AutoModelForCausalLM.from_pretrained(theirs)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    tokens_BT = np.stack(whole_rows(99))
    with torch.no_grad():
        found = model(input_ids=torch.from_numpy(tokens_BT)).logits.numpy()[..., :VOCAB]
    merged = ours_logits(load_model(tmp_path / "run").weights, tokens_BT)
    np.testing.assert_allclose(found, merged, atol=LOGITS)
    assert np.abs(merged - ours_logits(base_weights(), tokens_BT)).max() > 0.1
    # And back: their folder on our base is our merged model.
    command = ["convert", "from-hf", str(tmp_path / "peft"), str(tmp_path / "back"), "--base", str(ours)]
    assert main(command) == 0
    np.testing.assert_allclose(ours_logits(load_model(tmp_path / "back").weights, tokens_BT), merged, atol=LOGITS)


def test_an_adapter_that_peft_trained_is_read(given, tmp_path):
    import torch

    ours, theirs = given
    model = wrapped(theirs, lora_config(ours), LoraConfig(rank=3, alpha=7.0))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, w in model.named_parameters():
            if "lora_B" in name:
                w.copy_(torch.randn_like(w) * 0.1)
    model.save_pretrained(tmp_path / "peft")
    assert main(["convert", "from-hf", str(tmp_path / "peft"), str(tmp_path / "got"), "--base", str(ours)]) == 0
    tokens_BT = np.stack(whole_rows(7))
    with torch.no_grad():
        found = model.eval()(input_ids=torch.from_numpy(tokens_BT)).logits.numpy()[..., :VOCAB]
    np.testing.assert_allclose(ours_logits(load_model(tmp_path / "got").weights, tokens_BT), found, atol=LOGITS)
    assert open_arrays(tmp_path / "got")
