"""What each option of the commands means, where no field of a dataclass says so, and what holds where it is left out.

An option means one thing, whatever the command: one line in MEANINGS. Where commands write or read different things by
one name, such as --out, the command stands before the option. `test_help.py` wants a line for every option.
"""

from tigerjax.command import options
from tigerjax.command.figures import as_text
from tigerjax.command.options import Option

RECORDS = "Files of records or plain text, globs, or tfds:NAME (docs/FORMATS.md)"
RUN_FOLDER = "A run, or a folder of checkpoints"
MODEL_FOLDER = "The model: a run, or one of its checkpoints"
EXTENDED = "Folder of the extended tokenizer, as `tigerjax tokenizer extend` writes it"
CLEANED = "Folder for the records that stay, the counts of what was dropped, and manifest.json"

MEANINGS = {
    # What commands share
    "--json": "File for the figures of the command, as one JSON object",
    "--seed": "Decides what is drawn at random",
    "--input": RECORDS,
    "--docs": RECORDS,
    "--sft": "Files of SFT examples, globs, or tfds:NAME",
    "--text": RECORDS,
    "--verify": "Read what is there again, and compare it byte by byte",
    "--runner": "local, spark://HOST:PORT, yarn, k8s://HOST:PORT, slurm, or a runner of Apache Beam, with its options",
    "--ids": "What names a record, as in `tigerjax data clean --help`",
    "--shards": "Parts of the index; more of them need less memory, and change no output",
    "--action": "cut removes the matched sentences, drop the whole record, report only lists them in OUT/hits",
    "--base": "The tokenizer before: a folder or a tokenizer.model",
    "--modules": "Python modules that register mixtures when they are imported",
    "--seq-len": "Tokens in a row",
    "--cache-dir": "Folder for the rows of each source, as `tigerjax data cache` makes them",
    "--max-dropped": "Share of a source's examples that may fit no row; more of them are an error",
    "--model": MODEL_FOLDER,
    "--dtype": "Type of the weights that are written",
    "--pad-to-multiple-of": "The vocabulary gets rows of zeros up to a multiple of this",
    "--calibration-set": "Files of SFT examples on whose answers scores get mean 0 and standard deviation 1",
    "--batch-size": "Sequences that are computed at one time, over all devices",
    "--score-batch-size": "Answers that a reward model scores at one time",
    "--ask-judge": "Ask a judge that is a part of the reward once, to see that it answers",
    "mixture": "Name of a mixture that one of --modules registers",
    "run": RUN_FOLDER,
    "checkpoint": MODEL_FOLDER,
    "dir": "Folder of the alignment, as `tigerjax align init --out` made it",
    "--step": "Steps of the checkpoints that are meant",
    # Single commands
    "quickstart --out": "Folder of everything that is written",
    "new name": "Folder of the project, which is made",
    "doctor --bucket": "Bucket or folder in it where a small file is written, read and removed",
    "tokenizer sample --out": "Folder for sample.txt",
    "tokenizer sample --fraction": "Share of the documents that is drawn",
    "tokenizer sample --min-sample-bytes": "A smaller sample is an error, in bytes",
    "tokenizer sample --max-sentences": "The most lines of the sample",
    "tokenizer train --base": "Folder with the tokenizer.json that is trained further",
    "tokenizer train --vocab-size": "Entries of the new tokenizer",
    "tokenizer train --out": "Folder for the tokenizer.model",
    "tokenizer extend --new": "The tokenizer whose Chinese pieces are added: a folder or a tokenizer.model",
    "tokenizer extend --vocab-size": "Entries of the extended tokenizer, the three special tokens included",
    "tokenizer extend --out": "Folder for the extended tokenizer",
    "tokenizer verify folder": EXTENDED,
    "tokenizer stats folder": "Folder of a tokenizer",
    "data clean --out": "Folder for the cleaned files, report.html and manifest.json",
    "data dedup exact --out": CLEANED,
    "data dedup near --out": CLEANED,
    "data dedup near --threshold": "Least estimated Jaccard similarity of near duplicates",
    "data dedup against-sft --out": CLEANED,
    "data decontaminate --out": CLEANED,
    "data decontaminate --evaluation-sets": "Files of evaluation sets; each is named after its task",
    "data decontaminate --field": "Field of an evaluation set that holds the question",
    "data tfds --name": "Name of the dataset",
    "data tfds --out": "Folder for the dataset, OUT/NAME/VERSION: the TFDS_DATA_DIR of those who read it",
    "data tfds --kind": "What the records are: documents for pretraining, or SFT examples",
    "data tfds --version": "Version of the dataset",
    "data inspect --out": "HTML file to write",
    "data inspect --rows": "Rows of each source that are shown",
    "train --out": "Folder of the run",
    "rl --out": "Folder of the run",
    "--dry-run": "Print the config with its overrides, and stop",
    "--profile-steps": "FIRST:LAST, such as 10:12: write a trace of these steps to OUT/profile",
    "--wandb": "Project at Weights & Biases to which the logged steps are sent too",
    "checkpoint rm --damaged": "Remove those that a resumed run found damaged and renamed",
    "checkpoint rm --force": "Remove the newest whole checkpoint too, from which the run would resume",
    "checkpoint rm --dry-run": "Print what would be removed, and stop",
    "plan --topology": "CHIP:SHAPE, the shape in chips, such as v5p:4x4x4 or v5e:16x16",
    "plan --slices": "Slices of this topology, joined by the data-centre network",
    "plan --tokens": "Also give the days for so many tokens, such as 300e9",
    "plan --kernels": "Count the time of the attention kernels by their schedules, which takes half a minute more",
    "plan --answers": "Plan the step of a reward model with so many answers to a prompt; 0: of a language model",
    "reward train --init": "Chat checkpoint that it starts from",
    "reward train --out": "Folder of the run; the reward model is OUT/model",
    "reward train --force": "Keep a model that does not rank well enough, instead of exit 5",
    "reward score --input": "Files that `tigerjax sample` wrote",
    "reward score --out": "Folder for the scored answers",
    "reward score --reward": "What scores the answers, as in `tigerjax align init --help`",
    "reward calibrate --model": "Folder of the reward model",
    "chat model": "A run, one of its checkpoints, a Hugging Face folder, or that of a quick start or an alignment",
    "chat --system": "An instruction for the whole conversation",
    "chat --json": "File for what was said, and all answers to the last question, as one JSON object",
    "chat --reward-model": "Folder of a reward model, whose scores stand beside the answers",
    "sample --prompts": "File of prompts, one per line: {prompt_id, messages} or {prompt_id, text}",
    "sample --out": "Folder for candidates.jsonl",
    "evaluate --out": "Folder for results.json and report.html",
    "evaluate --text": "With --length, files of documents: records or plain text (docs/FORMATS.md)",
    "evaluate compare folders": "Folders that `tigerjax evaluate` wrote; the first one is compared with the others",
    "evaluate compare --out": "HTML file to write",
    "align init --out": "Folder of the alignment",
    "align set --again": "Also change what finished steps have used; they and the steps after them are done again",
    "align import --labels": "Files of labels: JSONL, or Label Studio's JSON export",
    "align run --rounds": "Run until this round has ended",
    "convert from-hf hf_dir": "Folder of a Hugging Face model, of Meta's files or of a LoRA adapter",
    "convert from-hf out": "Folder for the checkpoint",
    "convert from-hf --base": "The model that the LoRA adapter in HF_DIR is merged into: a folder or a run",
    "convert from-hf --tokenizer": "An extended tokenizer, to which the vocabulary grows",
    "convert from-hf --vocab-size": "Entries of the tokenizer of HF_DIR, where it has none; further rows are padding",
    "convert from-hf --verify": "Read everything again, and compare the logits of both models for a short text",
    "convert to-hf out": "Folder for the Hugging Face model",
    "convert to-hf --tokenizer": "The tokenizer of the checkpoint",
    "convert to-hf --keep-padding": "Keep the padding rows of the vocabulary, which are cut off otherwise",
    "convert to-hf --adapter": "Write the adapter alone, in PEFT's form, and not merged into its base",
    "convert to-hf --weights": "The weights as they were trained, or their running mean",
    "convert to-hf --verify": "Read everything again, and compare the logits of both models for a short text",
    "convert resize out": "Folder for the grown checkpoint",
    "convert resize --text": "With --new-rows distilled, files that hold the new tokens: records or plain text",
    "convert resize --tokenizer": "The extended tokenizer, to which the vocabulary grows",
    "report run_dir": "Folder of a quick start, a run or an alignment",
    "serve model": "A run, one of its checkpoints, a Hugging Face folder, a quick start or an alignment",
    "serve --dry-run": "Print what would be served and where, and stop",
    "completion shell": "The shell that reads the script",
}

UNSET = {
    "--json": "no file",
    "--field": "the usual names",
    "--bucket": "no bucket is tried",
    "--preferences": "no reward model",
    "convert from-hf --pad-to-multiple-of": "512 with --tokenizer; without it the rows stay",
    "new --zh": "no Chinese text",
    "new --en": "no English text",
    "new --evaluation-set": "no rounds",
    "new --vocab-size": "60,515 as TigerBot has, or fewer where the Chinese text has no more pieces",
    "new --seq-len": "what the base model reads, at most 4,096",
    "tokenizer train --base": "a tokenizer of its own",
    "--sensitive": "no list",
    "--on": "those that suit every text",
    "--off": "none",
    "--allow-source": "none",
    "--profile-steps": "no trace",
    "--wandb": "not sent",
    "--step": "all",
    "checkpoint rm --step": "none",
    "--tokens": "no such figure",
    "--work": "runs/plan/NAME",
    "train --out": "runs/NAME",
    "rl --out": "runs/NAME",
    "reward train --out": "runs/NAME",
    "reward train --init": "checkpoint.init_from of the config",
    "reward score --reward": "runs/NAME/model",
    "reward calibrate --model": "runs/NAME/model",
    "chat --system": "none",
    "chat --reward-model": "no scores",
    "chat --tokenizer": "the one that the model was trained with",
    "chat --dtype": "that of the run; float32 for an import",
    "--quantise": "as they are",
    "--context": "what the model reads, at most 4,096",
    "sample --model": "the run of CONFIG",
    "evaluate --model": "the run of CONFIG",
    "evaluate --out": "runs/NAME/evaluation",
    "evaluate compare --out": "no page",
    "--data-dir": "none, with --harness or --length",
    "--tasks": "none, with --length",
    "evaluate --text": "none, with --tasks",
    "--rope-kinds": "the model's own rope",
    "--rope-factor": "the greatest of --times",
    "--include-path": "none",
    "--limit": "all questions",
    "--labels": "the files that were imported before",
    "--gold": "none",
    "serve --tokenizer": "that of the model",
    "serve --dtype": "that of the run; float32 for an import",
    "serve --api-key-file": "the key in TIGERJAX_API_KEY, or none",
    "serve --served-name": "the name of MODEL's folder",
    "serve --reward-model": "nothing is scored",
    "serve --labels": "no labels are kept",
    "--safety": "no file",
    "--exclude": "no file",
    "--align.min-score": "any score",
    "--align.min-spread": "such prompts are only counted",
    "align set --score-batch-size": "unchanged",
    "convert from-hf --base": "no adapter",
    "convert from-hf --tokenizer": "the vocabulary stays",
    "convert from-hf --vocab-size": "as the tokenizer of HF_DIR says",
    "convert resize --text": "none, with other rows",
    "convert to-hf --tokenizer": "none is exported",
    "--hosts.coordinator": "JAX_COORDINATOR_ADDRESS",
    "--hosts.processes": "JAX_NUM_PROCESSES",
    "--hosts.process": "JAX_PROCESS_ID",
}
"""What holds where an option without a value is left out. NAME is the name of the config's run."""


def meaning(words: str, option: Option) -> str:
    """What an option of the command `words` (such as "data clean") means: its field's documentation, or a line here."""
    return MEANINGS.get(f"{words} {option.name}") or option.meaning or MEANINGS.get(option.name, "")


def default(words: str, option: Option) -> str:
    """What holds where the option is left out, as help writes it: "(required)", "(default: 8)", or "" for a switch."""
    if option.default is options.REQUIRED:
        return "(required)"
    if option.switch and option.default is False:
        return ""
    if option.default in (None, (), []):
        unset = UNSET.get(f"{words} {option.name}") or UNSET.get(option.name) or str(option.default)
        return f"(default: {unset})"
    if option.default is True:
        return f"(default: on; off: {option.spellings[1]})"
    return f"(default: {as_text(option.default)})"
