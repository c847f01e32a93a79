"""Folders of Hugging Face tokenizers, each a BPE that is trained on the spot, in the forms of well-known models."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

EMBEDDED = Path(__file__).resolve().parents[1] / "data_mixtures" / "embedded"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
LLAMA3 = WORDS + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CHATML = (
    "{%- if messages[0]['role'] != 'system' -%}\n"
    "    {{- '<|im_start|>system\\nBe helpful.<|im_end|>\\n' -}}\n"
    "{%- endif -%}\n"
    "{%- for message in messages -%}\n"
    "    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}\n"
)
HEADERS = (
    "{{- bos_token }}\n"
    "{%- for message in messages %}\n"
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}\n"
    "    {%- if message['role'] == 'assistant' %}\n"
    "        {%- generation %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endgeneration %}\n"
    "    {%- else %}\n"
    "        {{- message['content'] | trim + '<|eot_id|>' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}\n"
)
THINKING = (
    "{%- set ns = namespace(last=-1) -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}"
    "{{- '<|im_start|>' + m.role + '\\n' -}}"
    "{%- if m.role == 'assistant' -%}"
    "{%- if loop.index0 > ns.last -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
    "{{- m.content.split('</think>')[-1] -}}"
    "{%- else -%}{{- m.content -}}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
INSTRUCTIONS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant are known') }}{% endif %}{% endfor %}"
)


@functools.cache
def lines() -> list[str]:
    texts = []
    for name in ("corpus_en.jsonl", "corpus_zh.jsonl"):
        with open(EMBEDDED / name, encoding="utf-8") as file:
            texts += [json.loads(next(file))["text"][:2000] for _ in range(60)]
    return texts


def _trained(
    tokenizer: tokenizers.Tokenizer, size: int, texts: Iterable[str] | None = None, **how
) -> tokenizers.Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, **how)
    tokenizer.train_from_iterator(lines() if texts is None else texts, trainer)
    return tokenizer


def _byte_level(pattern: str, size: int, texts: Iterable[str] | None = None) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    return _trained(made, size, texts, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))


def _special(*texts: str) -> list[AddedToken]:
    return [AddedToken(text, special=True, normalized=False) for text in texts]


def _opening(made: tokenizers.Tokenizer, bos: str) -> processors.PostProcessor:
    own = [(bos, made.token_to_id(bos))]
    return processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A $B:1", special_tokens=own)


@functools.cache
def _llama3() -> str:
    made = _byte_level(LLAMA3, 600)
    specials = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    made.add_special_tokens(_special(*specials))
    opens = _opening(made, "<|begin_of_text|>")
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), opens])
    content = json.loads(made.to_str())
    content["model"]["ignore_merges"] = True
    return json.dumps(content, ensure_ascii=False)


@functools.cache
def _qwen() -> str:
    made = _byte_level(QWEN, 620)
    made.normalizer = normalizers.NFC()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    made.add_special_tokens(_special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    made.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>")])
    return made.to_str()


@functools.cache
def _smol() -> str:
    """The special tokens are the first entries of the vocabulary."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    return _trained(
        made,
        500,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    ).to_str()


@functools.cache
def _metaspace() -> str:
    """A SentencePiece BPE as transformers converts one: a space before the first text, and bytes for what is rare."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    rare = [f"<0x{byte:02X}>" for byte in range(256)]
    _trained(made, 700, special_tokens=["<unk>", "<s>", "</s>", *rare], limit_alphabet=300)
    made.post_processor = _opening(made, "<s>")
    content = json.loads(made.to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    return json.dumps(content, ensure_ascii=False)


CONFIGS = {
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen": {"add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "smol": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
    "metaspace": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}
TEMPLATES = {"llama3": HEADERS, "qwen": CHATML, "smol": CHATML, "metaspace": INSTRUCTIONS}
KINDS = tuple(CONFIGS)


def write(folder: Path, kind: str, template: str | None = "", **config) -> Path:
    """A folder of this kind. `template` "" is the kind's own, None none; `config` goes into tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    text = {"llama3": _llama3, "qwen": _qwen, "smol": _smol, "metaspace": _metaspace}[kind]()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    content = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    content |= CONFIGS[kind] | config
    template = TEMPLATES[kind] if template == "" else template
    if template is not None and kind == "qwen":  # as older folders have it
        content["chat_template"] = template
    elif template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    if kind == "llama3":
        ends = [json.loads(text)["added_tokens"][n]["id"] for n in (1, 4)]
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "do_sample": True}))
    return folder


SPECIALS = ("<|end|>", "<|pad|>")


def write_plain(folder: Path, texts: Iterable[str], size: int, *, nfc: bool = False, own_merges: str = "list") -> Path:
    """A folder with a byte-level BPE of `size` entries learnt from these texts, and two special tokens behind them.

    `nfc` normalises text, as Qwen does; `own_merges` "text" writes merges in the old form.
    """
    made = _byte_level(LLAMA3, size, texts)
    assert made.get_vocab_size() == size
    if nfc:
        made.normalizer = normalizers.NFC()
    made.add_special_tokens(list(SPECIALS))
    content = json.loads(made.to_str())
    if own_merges == "text":
        content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIALS[0], "pad_token": SPECIALS[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
