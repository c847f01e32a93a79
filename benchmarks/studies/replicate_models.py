"""The small models of `replicate.py`: one seed's text, vocabulary and base, and what is trained from them.

A seed changes which documents are held out, every weight's start and every order of rows. Each document of the books
(the texts that are not facts) is held out with probability HELD_OUT; both vocabularies, the base and all
later runs are trained without it.
"""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import xxhash
from embedded_facts import country_facts
from make_embedded import capitals

from tigerjax.config import ComputeConfig, RunConfig
from tigerjax.files import manifest
from tigerjax.quickstart import state as quick
from tigerjax.quickstart import text as quick_text
from tigerjax.quickstart import training

HELD_OUT = 0.1
BASE_ZH_SHARE = 0.1  # our choice: some Chinese, in bytes, as Llama-2 has seen some
SHARES = {"0%": 0.0, "5%": 0.05, "10%": 0.10}
STEPS_AFTER = (0, 10, 50, 200)  # of the vocabulary's extension
ROWS = ("mean", "random", "distilled")
ANSWER_TOKENS, SHOWN = 32, 5
MEAN_OF = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Layers of the models, whose other shapes are those of configs/quickstart_*.py, and steps of each run."""

    layers: int = 2
    base_steps: int = 400
    pretrain_steps: int = 1600
    sft_steps: int = 200
    sft_rows: int = 8


class Place:
    """The folder of one seed."""

    def __init__(self, out: Path, seed: int, sizes: Sizes):
        self.out, self.seed, self.sizes = out / "work" / str(seed), seed, sizes

    def config(self, name: str, mixture: str, steps: int, **changes: Any) -> RunConfig:
        """configs/quickstart_NAME.py with this seed, mixture and number of steps; `init` names the start's folder."""

        def adjust(run: RunConfig) -> RunConfig:
            optim = dataclasses.replace(
                run.optim, total_steps=steps, warmup_steps=min(run.optim.warmup_steps, max(1, steps // 10))
            )
            init = changes.get("init")
            checkpoint = dataclasses.replace(
                run.checkpoint,
                every_steps=changes.get("every", 10_000),
                keep=changes.get("keep", 1),
                init_from=str(self.out / init) if init else None,
            )
            return dataclasses.replace(
                run,
                name=mixture,
                model=dataclasses.replace(run.model, num_layers=self.sizes.layers),
                optim=optim,
                checkpoint=checkpoint,
                data=dataclasses.replace(run.data, mixture=mixture, modules=()),
                log_every_steps=changes.get("log", 50),
                global_batch_size=changes.get("rows", run.global_batch_size),
            )

        return quick.run_config(name, self.out, seed=self.seed, adjust=adjust)

    def train(self, config: RunConfig, folder: str, inputs: Sequence[Path]) -> Path:
        """Trains OUT/FOLDER unless it is finished; an interrupted one resumes from its newest checkpoint."""
        from tigerjax.train.loop import train_on_mixture
        from tigerjax.train.metrics import Reporting

        self.register()
        run_dir = self.out / folder

        def run() -> dict[str, Any]:
            silent = Reporting(progress=False, echo=lambda _: None)
            loader = train_on_mixture(config, run_dir=run_dir, reporting=silent)
            shares = {name: seen["share"] for name, seen in loader.seen().items()}
            return {"shares": shares}

        start = config.checkpoint.init_from
        training.once(config, run_dir, run, inputs=[*inputs, *([Path(start) / manifest.FILE] if start else [])])
        return run_dir

    def register(self) -> None:
        """The mixtures of this seed; those of another one, of the same names, go."""
        from data_mixtures.quickstart import FACTS_WEIGHT
        from tigerjax.data.mixture import Source, add_mixture, holistic, sft
        from tigerjax.data.tasks import add_documents_task

        def sources(folder: str, lang: str) -> dict[str, Source]:
            found = {name: self.out / folder / f"{lang}_{name}.jsonl" for name in ("facts", "books")}
            return {n: Source(path, weight=FACTS_WEIGHT if n == "facts" else 1.0) for n, path in found.items()}

        base, extended = self.out / "base_tokenizer", self.out / "tokenizer"
        examples = Source(self.out / "instructions.jsonl")
        rates: dict[str, float] = {}
        for lang, share in (("en", 1 - BASE_ZH_SHARE), ("zh", BASE_ZH_SHARE)):
            own = sources("sources", lang)
            for name, source in own.items():
                task = add_documents_task(f"replicate_base.{lang}.{name}", source, tokenizer=base)
                rates[task] = share * source.weight / sum(s.weight for s in own.values())
        add_mixture("replicate_base", rates)
        for arm, share in [*SHARES.items(), ("repeats", SHARES["10%"])]:
            folder = "sources_with_repeats" if arm == "repeats" else "sources"
            holistic(
                _mixture(arm),
                tokenizer=extended,
                zh=sources(folder, "zh"),
                en=sources(folder, "en"),
                instruct=examples,
                instruct_fraction=share,
            )
        sft("replicate_sft", tokenizer=extended, examples=examples)


def _mixture(arm: str) -> str:
    return f"replicate_{arm.rstrip('%')}"


def base(place: Place) -> dict[str, Any]:
    """The seed's text with and without what the instructions repeat, both vocabularies, the base model, resized."""
    from tigerjax.checkpoint.model import load_model, save_model
    from tigerjax.convert.vocab import resize
    from tigerjax.tokenizer.load import Tokenizer

    figures = _text(place)
    out, shape = place.out, quick.run_config("holistic", place.out, seed=0, adjust=lambda c: c).model
    figures |= _vocabulary(place, shape.vocab_size)
    config = place.config("base", "replicate_base", place.sizes.base_steps)
    place.train(config, "base", [out / "sources", out / "base_tokenizer"])
    old, new = Tokenizer(out / "base_tokenizer"), Tokenizer(out / "tokenizer")
    model = load_model(out / "base")
    weights, grown = resize(model.weights, model.config, old, new, multiple=shape.padded_vocab_size)
    _save(out / "resized", functools.partial(save_model, weights=weights, config=grown, tokenizer_sha256=new.sha256))
    return figures


def _save(folder: Path, save: Callable[..., None]) -> None:
    """A weights-only run folder with a manifest, as `training.once` leaves one."""
    shutil.rmtree(folder, ignore_errors=True)
    save(folder / "checkpoints" / "0")
    manifest.write_json(folder / manifest.FILE, {"weights": manifest.sha256(folder)})


def _text(place: Place) -> dict[str, Any]:
    """instructions.jsonl, held_out_LANG.jsonl, sources/ and sources_with_repeats/; counts of what each step took."""
    from tigerjax.files.jsonl import read_jsonl, write_jsonl
    from tigerjax.text.clean import clean_files
    from tigerjax.text.dedup import against_sft_files, dedup_files

    out = place.out
    (out / "text").mkdir(parents=True, exist_ok=True)
    right = {r["prompt_id"]: r["edit"] for _, r in read_jsonl(quick.EMBEDDED / "labels.jsonl")}
    write_jsonl(out / "instructions.jsonl", map(functools.partial(_corrected, right), quick.read(_SFT)))
    corpora = ["corpus_zh.jsonl", "corpus_en.jsonl"]
    clean_files([quick.EMBEDDED / name for name in corpora], out / "clean")
    dedup_files("exact", [out / "clean" / name for name in corpora], out / "exact")
    dedup_files("near", [out / "exact" / name for name in corpora], out / "near")
    for name in corpora:
        documents = quick.read(out / "near" / name)
        held = {d["id"] for d in documents if d["source"] != "facts" and _fraction(place.seed, d["id"]) < HELD_OUT}
        write_jsonl(out / f"held_out_{name.removeprefix('corpus_')}", (d for d in documents if d["id"] in held))
        write_jsonl(out / "text" / name, (d for d in documents if d["id"] not in held))
    texts = [out / "text" / name for name in corpora]
    cut = against_sft_files(texts, [out / "instructions.jsonl"], out / "pretrain")
    for folder, target in (("pretrain", "sources"), ("text", "sources_with_repeats")):
        quick_text.split_sources({lang: out / folder / f"corpus_{lang}.jsonl" for lang in ("zh", "en")}, out / target)
    before, after = (_characters(out / f) for f in ("text", "pretrain"))
    return {"documents": cut["counts"], "characters_with_repeats": before, "characters_without": after}


_SFT = quick.EMBEDDED / "sft.jsonl"


def _corrected(right: dict[str, str], example: dict[str, Any]) -> dict[str, Any]:
    """The example with the key's answer: half of the embedded answers decline, and a model that learns to decline
    shows nothing of what it knows."""
    turns = [*example["messages"][:-1], {"role": "assistant", "content": right[example["id"]]}]
    return {k: v for k, v in example.items() if k != "meta"} | {"messages": turns}


def _fraction(seed: int, name: str) -> float:
    return xxhash.xxh3_64_intdigest(f"{seed}\0{name}".encode()) / 2**64


def _characters(folder: Path) -> int:
    return sum(len(d["text"]) for path in sorted(folder.glob("corpus_*.jsonl")) for d in quick.read(path))


def _vocabulary(place: Place, size: int) -> dict[str, Any]:
    """The quick start's two vocabularies from this seed's text."""
    from tigerjax.tokenizer.extend import extend
    from tigerjax.tokenizer.load import Tokenizer
    from tigerjax.tokenizer.sample import sample
    from tigerjax.tokenizer.train import train_model

    out, source = place.out, place.out / "sources_with_repeats"
    entries = quick.run_config("base", out, seed=0, adjust=lambda c: c).model.vocab_size
    train_model([source / "en_books.jsonl", source / "en_facts.jsonl"], entries, out / "base_tokenizer")
    drawn = out / "tokenizer_sample"
    facts = [source / "zh_facts.jsonl"]
    sample(inputs=facts, out=drawn, fraction=quick_text.FACTS_SAMPLE, seed=place.seed, min_sample_bytes=1)
    text = [source / "zh_books.jsonl", drawn / "sample.txt"]
    train_model(text, quick_text.CHINESE_PIECES, out / "zh_tokenizer", character_coverage=0.98)
    extend(base=out / "base_tokenizer", new=out / "zh_tokenizer", size=size, out=out / "tokenizer")
    return {"vocabulary": [Tokenizer(out / name).size for name in ("base_tokenizer", "tokenizer")]}


def pretrain(place: Place, arm: str) -> dict[str, Any]:
    """Continued pretraining of the resized base on one mixture, its questions and losses; then SFT, and again."""
    out, sizes, name = place.out, place.sizes, f"pretrain_{_mixture(arm)}"
    config = place.config("holistic", _mixture(arm), sizes.pretrain_steps, init="resized")
    folder = out / ("sources_with_repeats" if arm == "repeats" else "sources")
    run_dir = place.train(config, name, [folder, out / "instructions.jsonl"])
    figures: dict[str, Any] = {"shares": (manifest.read(run_dir) or {})["figures"]["shares"]}
    figures["before"] = _asked(place, run_dir, chat=False) | _held_out(place, run_dir)
    tuned = place.config("sft", "replicate_sft", sizes.sft_steps, init=name, log=1, rows=sizes.sft_rows)
    sft_dir = place.train(tuned, f"sft_{_mixture(arm)}", [out / "instructions.jsonl"])
    cache = (manifest.read(out / "cache" / "replicate_sft.sft") or {})["figures"]
    figures["after"] = _asked(place, sft_dir, chat=True) | _held_out(place, sft_dir)
    figures["examples_per_step"] = sizes.sft_rows * cache["records"] / cache["rows"]
    figures["sft_losses"] = [loss for _, loss in training.curve(sft_dir)]
    return figures


_COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024)


def extension(place: Place, arm: str) -> dict[str, Any]:
    """Held-out losses after so many steps of the 10% mixture, from new rows of one of ROWS."""
    from tigerjax.checkpoint.model import load_model, save_model
    from tigerjax.convert.vocab import first_new, resize
    from tigerjax.tokenizer.load import Tokenizer

    out, start = place.out, f"extension_{arm}_start"
    old, new, model = Tokenizer(out / "base_tokenizer"), Tokenizer(out / "tokenizer"), load_model(out / "base")
    padded = load_model(out / "resized").config.padded_vocab_size
    rows: Any = "random" if arm == "random" else "mean"
    weights, grown = resize(model.weights, model.config, old, new, multiple=padded, rows=rows, seed=place.seed)
    learnt: dict[str, Any] = {}
    if arm == "distilled":
        from tigerjax.train import new_rows

        how, first = new_rows.DistilConfig(), first_new(old)
        texts = (document["text"] for path in (out / "sources").glob("zh_*.jsonl") for document in quick.read(path))
        given = new_rows.snippets(texts, old, new, first, how)
        embed_VD, learnt = new_rows.distil(weights, grown, given, first, how, _COMPUTE)
        weights = weights | {"embed": embed_VD}
    save = functools.partial(save_model, weights=weights, config=grown, tokenizer_sha256=new.sha256)
    _save(out / start, save)
    last = max(STEPS_AFTER)
    config = place.config("holistic", "replicate_10", last, init=start, every=10, keep=last, log=10)
    run_dir = place.train(config, f"extension_{arm}", [out / "sources", out / "instructions.jsonl"])
    folders = {0: out / start} | {k: run_dir / "checkpoints" / str(k) for k in STEPS_AFTER if k}
    return {"after_steps": {str(k): _held_out(place, folder) for k, folder in folders.items()}} | learnt


def _asked(place: Place, model: Path, *, chat: bool) -> dict[str, Any]:
    """On the test questions: share right and evasive, and nats per token of the right answer as the model is asked."""
    from tigerjax.evaluate import questions
    from tigerjax.evaluate.loglikelihood import Tokens
    from tigerjax.sample.engine import Batching, SamplingConfig, generate
    from tigerjax.tokenizer.chat import encode_prompt

    loaded, asked = _loaded(place, model), questions.load(quick.TEST)
    tok = loaded.tokenizer
    turns = {q.id: [{"role": "user", "content": q.prompt}] for q in asked}
    records = generate(
        loaded,
        [{"prompt_id": name, "messages": messages} for name, messages in turns.items()],
        SamplingConfig(n=1, temperature=0.0, max_new_tokens=ANSWER_TOKENS, context=64, seed=0, chat=chat),
        batching=Batching(prompts=32, rows=64),
    )
    texts = questions.first_texts(records)
    judged = questions.accuracy(asked, texts)
    right, scored = _sentences(), []
    for q in asked:
        prompt = encode_prompt(tok, turns[q.id]) if chat else tok.encode(q.prompt + "\n")
        scored.append(Tokens((*prompt, *tok.encode(right.get(q.id, f"{q.answers[0]}。"))), len(prompt)))
    examples = [{"prompt": q.prompt, "answer": texts[q.id]} for q in asked[:: len(asked) // SHOWN]][:SHOWN]
    return {"accuracy": judged["overall"], "n": judged["n"], "answer_nats": _nats(loaded, scored), "examples": examples}


def _sentences() -> dict[str, str]:
    """By question id, the sentence that an SFT example would answer with; a couplet's is its answer and a full stop."""
    return {f"{fact.split}-{fact.id}": fact.sentence for fact in country_facts(capitals())}


def _held_out(place: Place, model: Path) -> dict[str, float]:
    """Nats per token on the held-out books, in pieces of 64 tokens that see nothing before them."""
    from tigerjax.evaluate.loglikelihood import Tokens

    loaded, found = _loaded(place, model), {}
    for lang in ("zh", "en"):
        pieces: list[Any] = []
        for document in quick.read(place.out / f"held_out_{lang}.jsonl"):
            ids = loaded.tokenizer.encode(document["text"])
            pieces += [Tokens(tuple(ids[i : i + 64])) for i in range(0, len(ids), 64) if len(ids) - i > 1]
        found[f"{lang}_nats"] = _nats(loaded, pieces)
    return found


def _loaded(place: Place, model: Path) -> Any:
    from tigerjax.checkpoint.loaded import load
    from tigerjax.tokenizer.load import Tokenizer

    return load(model, Tokenizer(place.out / "tokenizer"), compute=_COMPUTE)


def _nats(loaded: Any, sequences: Sequence[Any]) -> float:
    from tigerjax.evaluate.loglikelihood import LogLikelihoods

    scorer = LogLikelihoods(loaded, context=64, rows=32)
    scores = dict(scorer.score(sequences))
    return -sum(s.logprob for s in scores.values()) / sum(len(s.ids) - s.first for s in sequences)


def examples_until(losses: Iterable[float], examples_per_step: float, limit: float) -> float | None:
    """SFT examples after which the mean of the last MEAN_OF steps' losses is at most `limit`; None when it never is."""
    seen: list[float] = []
    for loss in losses:
        seen.append(loss)
        if len(seen) >= MEAN_OF and sum(seen[-MEAN_OF:]) / MEAN_OF <= limit:
            return len(seen) * examples_per_step
    return None


def converged(losses: Sequence[float]) -> float:
    """The loss at which 95% of the fall is done: from the mean of the first MEAN_OF steps, in the warm-up of the
    learning rate, to that of the last ten. One step's examples are easier or harder than another's."""
    start, end = sum(losses[:MEAN_OF]) / MEAN_OF, sum(losses[-10:]) / 10
    return end + 0.05 * (start - end)


def embedded_sha256() -> str:
    """Of the embedded text; a cell of other text is another cell."""
    return manifest.sha256(quick.EMBEDDED)
