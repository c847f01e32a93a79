"""The texts of the files that `tigerjax new` writes; words in braces are filled in there."""

STEPS = [
    ("data", "clean"),
    ("data", "dedup", "exact"),
    ("data", "dedup", "near"),
    ("data", "dedup", "against-sft"),
    ("tokenizer", "train"),
    ("tokenizer", "extend"),
    ("tokenizer", "verify"),
    ("convert", "from-hf"),
    ("train",),
    ("reward", "train"),
    ("align", "init"),
    ("align", "run"),
    ("convert", "to-hf"),
]
"""The commands that have a table below."""

CLEAN_TOML = """\
# What `tigerjax` commands take in this folder when it is not typed. `tigerjax COMMAND --dry-run` shows what a command
# would read and write. The tables stand in the order of the work: each command names the next one when it ends.

["data clean"]
input = {raw}
out = "runs/clean"
"""

DOCUMENTS_TOML = """
["data dedup exact"]
input = {docs}
out = "runs/exact"

["data dedup near"]
input = ["runs/exact"]
out = "runs/near"

# Takes away what the instructions teach already.
["data dedup against-sft"]
docs = ["runs/near"]
sft = {sft}
out = "runs/text"
"""

TOKENIZER_TOML = """
{why}["tokenizer train"]
{train_base}input = {zh}
vocab-size = {train}
out = "runs/zh_pieces"

["tokenizer extend"]
base = {base}
new = "runs/zh_pieces"
vocab-size = {size}
out = "tokenizer"

["tokenizer verify tokenizer"]
base = {base}
text = {texts}
"""

MORE_PIECES = "# More pieces than are needed, since those that are not Chinese, or that the base has, are left out.\n"

IMPORT_TOML = """
[{import_base}]
"""

GROWN_TOML = """\
tokenizer = "tokenizer"
pad-to-multiple-of = {multiple}
"""

TRAIN_TOML = """
["train {run}.py"]
"""

REWARD_TOML = """
["reward train reward.py"]
preferences = {preferences}
calibration-set = {sft}
"""

ALIGN_TOML = """
["align init sft.py"]
sft = {sft}
models = ["runs/sft"]
reward = "runs/reward/model"
evaluation-set = {evaluation_set}
out = "runs/align"

["align run runs/align"]
rounds = 1
"""

EXPORT_TOML = """
# The model of the fine-tuning. When a round has ended, `tigerjax align status` names the command for its model.
["convert to-hf runs/sft runs/hf"]
tokenizer = {tokenizer}
"""

MIXTURE = '''\
"""The data of {name}. {what}"""

from tigerjax.data.mixture import Source, {kinds}

EXAMPLES = Source(({examples},))

{documents}sft("{name}_sft", tokenizer={tokenizer}, examples=EXAMPLES)
'''

SHARES = """\
pretrain.py and sft.py name its mixtures.

Shares are shares of tokens. {languages}The weight of a source is its share within its
language, and max_epochs limits how often it is read: Source("file", weight=2, max_epochs=3).
"""

LANGUAGES = "Half of the documents' tokens are Chinese. "

SFT_ALONE = "sft.py names its mixture."

HOLISTIC = """\
holistic(
    "{name}_pretrain",
    tokenizer={tokenizer},
    zh={zh},
    en={en},
    instruct=EXAMPLES,
    instruct_fraction=0.05,
{share})
"""

FIRST = '''\
"""{what}

Model    the sizes of {base}{vocabulary}
Data     {mixture}, see mixture.py
Hardware one device; `tigerjax plan {run}.py --topology v5p:4x4x4 --search` finds a mesh for a TPU slice
Result   not yet run
Command  tigerjax train {run}.py

The sizes come from the base model. Rates, steps and batch are only a beginning: change them.
"""

from tigerjax.config import {imports}
from tigerjax.model.llama.presets import adamw
{sizes}

def config() -> RunConfig:
    return RunConfig(
        name="{run}",
        model={kind}(
{fields}        ),
        compute=ComputeConfig({compute}),
        mesh=MeshConfig(),
        optim=adamw({optim}),
        data=DataConfig(
            mixture="{mixture}",
            modules=("mixture",),
            tokenizer={tokenizer},
            cache_dir="runs/cache",
            seq_len={seq_len},
        ),
        checkpoint=CheckpointConfig(every_steps=100, keep=3, init_from="runs/base"),
        global_batch_size={global_batch_size},
        seed=0,
        log_every_steps=10,
    )
'''

WHAT = {
    "pretrain": "Holistic continued pretraining of {name}.",
    "sft": "Fine-tuning of the base model on conversations; the loss is that of the answers.",
}
OPTIM = {
    "pretrain": "peak_lr=1e-4, warmup_steps=100, total_steps=1000, weight_decay=0.1",
    "sft": "peak_lr=1e-5, warmup_steps=20, total_steps=300, weight_decay=0.0",
}

SFT = '''\
"""Fine-tuning of what pretrain.py trains, on conversations; the loss is that of the answers.

Data     {name}_sft, see mixture.py
Result   not yet run
Command  tigerjax train sft.py

Model, mesh and row length are those of pretrain.py. Rates and steps are only a beginning: change them.
"""

import dataclasses

import pretrain

from tigerjax.config import RunConfig
from tigerjax.model.llama.presets import adamw


def config() -> RunConfig:
    base = pretrain.config()
    return dataclasses.replace(
        base,
        name="sft",
        optim=adamw({optim}),
        data=dataclasses.replace(base.data, mixture="{name}_sft"),
        checkpoint=dataclasses.replace(base.checkpoint, init_from="runs/pretrain"),
    )
'''

REWARD = '''\
"""The reward model, which starts from the model of sft.py; a row of its batch is a prompt with its answers.

Result   not yet run
Command  tigerjax reward train reward.py

Rates and steps are only a beginning: change them.
"""

import dataclasses

import {first}

from tigerjax.config import RunConfig
from tigerjax.model.llama.presets import adamw


def config() -> RunConfig:
    base = {first}.config()
    return dataclasses.replace(
        base,
        name="reward",
        optim=adamw(peak_lr=5e-6, warmup_steps=20, total_steps=200, weight_decay=0.0),
        data=dataclasses.replace(base.data, mixture="preferences", modules=()),
        checkpoint=dataclasses.replace(base.checkpoint, init_from="runs/sft"),
    )
'''

ALIGN_README = """\
- `tigerjax align run` stops with exit code 4 when people are needed. Their questions are in
  `runs/align/rounds/01/queue/queue.md`. `tigerjax align import --labels FILE` takes their answers, and
  `tigerjax align run` resumes. `tigerjax align set --align.allow-partial` lets it resume without them.
- `tigerjax align status` shows how each round ended.
"""

README = """\
# {name}

Type these in this folder, one after the other. What each takes stands in `tigerjax.toml`, and each names the next one
when it ends. A command that was interrupted continues when it is typed again.

```console
{steps}
```

- {configs}: rates, steps, batch, mesh. Every field is also an
  option: `tigerjax train {first}.py --optim.peak-lr 3e-5`.
- `mixture.py` says which files are trained on, and in which shares.
- `tigerjax plan {first}.py --topology v5p:4x4x4` shows memory and time on a TPU slice before you rent one.
{align}- `tigerjax evaluate sft.py --tasks mmlu ceval --data-dir DIR` asks benchmarks, whose files you put into DIR.
- `tigerjax report` writes a page about the last stage: a run with its curves, or the rounds. `tigerjax report
  runs/{first}` writes that of another run.
- `tigerjax doctor` looks at this machine: versions, devices, memory, disk.
"""
