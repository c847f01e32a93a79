"""What the report reads of folders: logged steps, and which folder was made of which."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tigerjax.checkpoint import meta
from tigerjax.command.report import report
from tigerjax.errors import DataError
from tigerjax.files import log, manifest
from tigerjax.report import lineage, render, runs
from tigerjax.report.validation import table_rows


def logged(folder: Path, steps: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": i, "loss_nats": 2.0 / i, "tokens_per_s": 11.0, "mfu": None, "goodput": 0.5, "spent_s": {"steps": i}}
        for i in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def made(out: Path, name: str, *inputs: Path, **more) -> Path:
    with manifest.stage(out, name=name, config={}, inputs=inputs) as stage:
        (stage.tmp / "made.jsonl").write_text(name)
        stage.counts, stage.figures = more.get("counts", {}), more.get("figures", {})
    return out


def test_a_run_s_records_are_thinned_and_what_no_device_told_is_left_out(tmp_path: Path):
    logged(tmp_path / "sft", 1000)
    (found,) = runs.collect(tmp_path)["runs"].values()
    assert set(found) == {"tokens_per_s", "goodput", "spent_s"} and found["spent_s"] == {"steps": 1000}
    assert len(found["goodput"]) <= 401 and found["goodput"][-1] == [1000, 0.5]
    assert runs.of_run(tmp_path / "sft")["curves"]["sft"][1] == [2, 1.0]


def part(loss, **more):
    return {"loss_nats": loss, "accuracy": 0.25, "tokens": 4000, **more}


def validated(folder: Path) -> None:
    """Four steps, of which two were validated; the loss of the second is not finite for one source."""
    found = [
        {"wiki": part(3.5, by_source={"books": part(3.0)})},
        {"wiki": part(3.25, by_source={"books": part(None)}), "quiz": {"accuracy": 0.5, "right": 2, "n": 4}},
    ]
    lines = [{"step": i, "loss_nats": 4.0 / i} for i in range(1, 5)]
    for line, more in zip(lines[1::2], found, strict=True):
        line |= {
            "validation": more,
            "train_loss_nats": 3.0,
            "rising": ["wiki/source/books"] if line["step"] == 4 else [],
        }
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_validations_of_a_run_are_drawn_beside_training_and_tabled(tmp_path: Path):
    validated(tmp_path / "run")
    values = runs.of_run(tmp_path / "run") | runs.collect(tmp_path / "run")
    found = values["validation"]["run"]
    assert found["sets"] == {"wiki": [[2, 3.5], [4, 3.25]], "quiz": []} and found["train"] == [[2, 3.0], [4, 3.0]]
    assert found["best"] == {"wiki": [4, 3.25]} and found["rising"] == {"wiki/source/books": 4}
    render(values, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Held-out loss" in page and "wiki, source books" in page and "not finite" in page
    assert "while training fell: wiki/source/books (step 4)" in page
    assert len(re.findall(r'polyline class="stroke l\d" points="[^"]+ [^"]+"', page)) == 2  # training and wiki
    rows = dict(table_rows(values))
    assert rows["held-out loss of run on wiki, nats"] == "3.50 → 3.25, lowest 3.25 at step 4"


def test_the_command_draws_the_speed_and_the_held_out_loss_of_a_run(tmp_path: Path):
    validated(tmp_path / "run")
    report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Held-out loss" in page and "wiki, source books" in page
    logged(tmp_path / "run", 3)
    report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Where 3.0 s went" in page and "11 tokens/s at the end" in page and "Held-out loss" not in page


@pytest.mark.parametrize(
    "wrong",
    [
        {"validation": 3}, {"validation": {"wiki": 3}}, {"validation": {"wiki": part("low")}},
        {"validation": {"wiki": part(1.0, by_lang=[])}}, {"validation": {"wiki": part(1.0, by_lang={"en": 3})}},
        {"rising": "wiki"}, {"rising": [3]}, {"train_loss_nats": "low"},
    ],
)  # fmt: skip
def test_a_validation_that_no_run_logged_is_named_with_its_line(tmp_path: Path, wrong):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss_nats": 1.0} | wrong) + "\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl:1: .* is "):
        runs.read(tmp_path / "metrics.jsonl")


def test_a_line_cut_short_by_a_kill_is_left_out_and_a_broken_one_before_it_is_named(tmp_path: Path):
    logged(tmp_path, 3)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "lo')
    assert [r["step"] for r in log.records(path)] == [1, 2, 3]
    path.write_text('{"step"\n' + path.read_text())
    with pytest.raises(DataError, match=r"metrics.jsonl:1: broken JSON"):
        log.records(path)
    path.write_text("")
    with pytest.raises(DataError, match="no step was logged yet"):
        runs.of_run(tmp_path)


@pytest.mark.parametrize("moved", [False, True])
def test_lineage_goes_from_the_first_file_to_the_export_also_when_the_folder_was_moved(moved: bool, tmp_path: Path):
    text = tmp_path / "corpus.jsonl"
    text.write_text("raw")
    home = tmp_path / "home"
    clean = made(home / "clean", "clean", text, counts={"in": 3, "out": 2, "dropped": {"empty": 1}})
    tokenizer = made(home / "tok", "tokenizer_train", clean / "made.jsonl", figures={"vocab_size": 1111})
    made(home / "cache" / "mine.zh", "cache", clean / "made.jsonl", figures={"rows": 44})
    made(home / "cache" / "later.en", "cache", clean / "made.jsonl", figures={"rows": 33})
    logged(home / "run", 5)
    config = f"data.cache_dir = '{home / 'cache'}'\ndata.mixture = 'mine'\ndata.tokenizer = '{tokenizer}'\n"
    config += "data.phases = ('4=later',)\n"
    (home / "run" / "config.txt").write_text(config + "checkpoint.init_from = None\nseed = 0\n")
    made(home / "round" / "train", "align train", home / "run")
    logged(home / "round" / "train" / "run", 7)
    (home / "hf").mkdir()
    manifest.write_json(
        home / "hf" / manifest.FILE, {"stage": "convert to-hf", "lineage": {"checkpoint": "round/train/run"}}
    )
    if moved:
        home = home.rename(tmp_path / "other")
    nodes = lineage.collect(home)
    edges = {node["name"]: sorted(nodes[i]["name"] for i in node["of"]) for node in nodes}
    assert edges == {
        "corpus.jsonl": [],
        "clean": ["corpus.jsonl"],
        "tok": ["clean"],
        "mine": ["clean", "tok"],
        "run": ["mine"],
        "round/train": ["run"],
        "hf": ["round/train"],
    }
    details = {node["name"]: node["detail"] for node in nodes}
    assert details["clean"] == "3 → 2" and details["tok"] == "1,111 entries" and details["mine"] == "77 rows, 2 sources"
    assert details["run"] == "step 5" and details["round/train"] == "step 7"
    assert all(i < place for place, node in enumerate(nodes) for i in node["of"])


def test_stages_that_name_each_other_are_drawn_all_the_same(tmp_path: Path):
    """A run and a data stage once shared a folder: then each is read as an input of the other."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.jsonl").write_text("")
    made(tmp_path / "a", "dedup", tmp_path / "b" / "x.jsonl")
    shutil.rmtree(tmp_path / "b")
    made(tmp_path / "b", "clean", tmp_path / "a")
    nodes = lineage.collect(tmp_path)
    assert [node["name"] for node in nodes] and all(i < at for at, node in enumerate(nodes) for i in node["of"])
    assert lineage.graph_section({"lineage": nodes})


def test_a_folder_without_manifests_has_no_graph(tmp_path: Path):
    assert lineage.collect(tmp_path) == [] and lineage.graph_section({"lineage": []}) == {}


def trained(folder: Path, config: str = "") -> Path:
    logged(folder, 3)
    records = [json.loads(line) | {"shares": {"zh": 0.6, "en": 0.4}} for line in (folder / "metrics.jsonl").open()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "config.txt").write_text(config or "data.cache_dir = 'x'\n")
    return folder


def test_the_shares_that_a_run_wanted_are_those_of_its_newest_checkpoint(tmp_path: Path):
    folder = trained(tmp_path / "run")
    assert runs.of_run(folder)["shares"] == {"wanted": {}, "realised": {"zh": 0.6, "en": 0.4}}
    for step, zh in ((2, 0.9), (10, 0.5)):
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
        about = {"kind": "llama", "model": {}, "step": step, "files": {}, "loader": {"rates": {"zh": zh, "en": 1 - zh}}}
        meta.write(folder / "checkpoints" / str(step) / meta.META, about)
    assert runs.of_run(folder)["shares"]["wanted"] == {"zh": 0.5, "en": 0.5}
    (folder / "checkpoints" / "10" / meta.META).write_text("damaged")
    assert runs.of_run(folder)["shares"]["wanted"] == {}


def test_a_run_has_the_name_that_its_config_gives_it(tmp_path: Path):
    report = runs.of_run(trained(tmp_path / "folder", "name = 'my_zh_model'\n"))
    assert report["title"] == "Run my_zh_model, in folder" and list(report["curves"]) == ["my_zh_model"]
    assert runs.of_run(trained(tmp_path / "same", "name = 'same'\n"))["title"] == "Run same"


def test_what_no_stage_made_is_named_by_what_it_is(tmp_path: Path):
    imported, raw, hf, words = (tmp_path / name for name in ("imported", "chat", "hf", "words"))
    for place in (imported, raw, hf, words):
        place.mkdir()
    about = {"kind": "llama", "model": {}, "step": 0, "files": {}}
    meta.write(imported / meta.META, about | {"extra": {"source": {"folder": "tigerbot-7b"}}})
    meta.write(raw / meta.META, about)
    (hf / "config.json").write_text("{}")
    (words / "tokenizer.model").write_bytes(b"")
    made(tmp_path / "home" / "out", "resize", imported, raw, hf, words)
    about = manifest.read(tmp_path / "home" / "out")
    manifest.write(tmp_path / "home" / "out", about | {"inputs": [*about["inputs"], {"path": str(tmp_path / "gone")}]})
    found = {node["name"]: (node["stage"], node["detail"]) for node in lineage.collect(tmp_path / "home")}
    assert found["imported"] == ("imported model", "from tigerbot-7b") and found["chat"] == ("model", "")
    assert found["hf"] == ("Hugging Face model", "") and found["words"] == ("tokenizer", "")
    assert found["gone"] == ("file", "no longer there")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([1], "a JSON list, but each line must be an object"),
        ({"loss_nats": 1.0}, "not an object with a number `step`"),
        ({"step": 1, "mfu": "<b>"}, "mfu is '<b>', not a number"),
        ({"step": 1, "loss_nats": [2]}, "loss_nats is [2], not a number"),
        ({"step": 1, "spent_s": {"a": "b"}}, "spent_s is "),
        ({"step": 1, "shares": [1]}, "shares is "),
    ],
)
def test_a_line_that_no_run_logged_is_bad_data_with_its_number(tmp_path, record, words):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 0}) + "\n" + json.dumps(record) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(f"{path}:2: {words}")):
        runs.read(path)
