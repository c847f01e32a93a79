"""Peak memory of conversion over depth: python benchmarks/speed/convert_memory.py [--layers 2 4 8] [--size 70b] [--at gs://…]

For each depth it writes a random Hugging Face checkpoint with the layer shapes asked for, imports it with `tigerjax
convert from-hf`, exports it with `to-hf`, both with --verify, and compares the checksums. Each step is a process of its
own. Everything is removed afterwards, but not in a bucket. The table should show that memory does not grow with depth.
The disk must hold three copies of the deepest model: theirs are bfloat16, ours is float32.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tigerjax.config import ModelConfig
from tigerjax.convert.shards import DTYPES, Shards
from tigerjax.files import paths
from tigerjax.files.manifest import write_json
from tigerjax.model.hf_config import TokenizerIds
from tigerjax.model.hf_weights import hf_rows
from tigerjax.model.llama.face import FAMILY
from tigerjax.model.weights import tensor_bytes

# (model_dim, mlp_dim, heads, kv heads, head_dim, vocabulary); "quarter" and "eighth" are Llama-2-70B with its widths
# cut to that, "70b" a layer of the real size.
SIZES = {
    "70b": (8192, 28672, 64, 8, 128, 32000),
    "quarter": (2048, 7168, 16, 2, 128, 32000),
    "eighth": (1024, 3584, 8, 1, 128, 32000),
    "tiny": (64, 192, 4, 2, 16, 999),
}


def make(folder: Path, config: ModelConfig) -> None:
    """A random bfloat16 checkpoint, written in blocks of rows: this script does not hold a whole tensor either."""
    spec = hf_rows(config, rows=config.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    content = FAMILY.to_hf_config(
        config,
        reward=False,
        rows=config.vocab_size,
        dtype="bfloat16",
        ids=TokenizerIds(None),
        extra={},
        seq_len=None,
    )
    write_json(folder / "config.json", content)
    shapes = {name: row.shape for row in spec for name in row.names(config)}
    shards, rng = Shards(folder, shapes, "bfloat16", 1_000_000_000), np.random.default_rng(0)
    for row in spec:
        for name in row.names(config):
            shards.start(name)
            for start, stop in row.blocks():
                block = rng.standard_normal((stop - start, *row.shape[1:]), np.float32) * row.shape[-1] ** -0.5
                shards.write((block + (len(row.shape) == 1)).astype(DTYPES["bfloat16"]))
            shards.end(name)
    shards.finish()
    shards.close()


def convert(*args: str, json_file: Path) -> dict:
    command = [sys.executable, "-m", "tigerjax", "convert", *args, "--verify", "--json", str(json_file)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads(json_file.read_text())


def measure(layers: int, size: str, work: Path) -> dict:
    D, F, N, K, H, V = SIZES[size]
    config = ModelConfig(
        num_layers=layers,
        model_dim=D,
        mlp_dim=F,
        num_heads=N,
        num_kv_heads=K,
        head_dim=H,
        vocab_size=V,
        padded_vocab_size=V,
        rope_base=10_000.0,
        norm_eps=1e-5,
    )
    make(work / "hf", config)
    into = convert("from-hf", str(work / "hf"), str(work / "run"), json_file=work / "in.json")
    out = convert("to-hf", str(work / "run"), str(work / "again"), "--dtype", "bfloat16", json_file=work / "out.json")
    spec = hf_rows(config, rows=V)
    again = json.loads((work / "again/checksums.json").read_text())
    return {
        "layers": layers,
        "GB, float32": tensor_bytes(spec, config, 4) / 1e9,
        "largest tensor, GB float32": max(4 * int(np.prod(row.shape)) for row in spec) / 1e9,
        "from-hf peak RSS, GB": into["peak_rss_gb"],
        "from-hf s": into["seconds"],
        "to-hf peak RSS, GB": out["peak_rss_gb"],
        "to-hf s": out["seconds"],
        "tensors verified": len(again),
        "probe logits differ by": max(into["probe_max_abs_logit_diff"], out["probe_max_abs_logit_diff"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--size", choices=SIZES, default="quarter")
    parser.add_argument("--at", help="a folder in a bucket to work in; a temporary one of the disk without it")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for n, layers in enumerate(args.layers):
        with tempfile.TemporaryDirectory() as work:
            row = measure(layers, args.size, paths.of(f"{args.at}/{layers}" if args.at else work))
        rows.append(row)
        if n == 0:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
        print(
            "| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()) + " |", flush=True
        )
    if args.json:
        write_json(args.json, {"size": args.size, "rows": rows})


if __name__ == "__main__":
    main()
