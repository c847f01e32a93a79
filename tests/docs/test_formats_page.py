"""docs/FORMATS.md: every example of the page is read by its reader, and becomes what the page says."""

import json
import re
import textwrap
from pathlib import Path

import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest

from tigerjax import records
from tigerjax.align.people import label_lines
from tigerjax.align.score import _checked
from tigerjax.align.settings import read_lines
from tigerjax.evaluate import questions
from tigerjax.evaluate.benchmarks import BENCHMARKS
from tigerjax.records.tf import start
from tigerjax.text import decontaminate

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "FORMATS.md").read_text(encoding="utf-8")
SECTIONS = {
    part.partition("\n")[0]: part.partition("\n")[2] for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
}
BLOCK = re.compile(r"(?:^ {4}.*\n(?:^[ ]*\n(?= {4}))*)+", re.MULTILINE)
DOCUMENTS = ["The tiger walks.", "It sleeps."]


def blocks(text):
    """The indented blocks of a text, without their indent."""
    return [textwrap.dedent(block) for block in BLOCK.findall(text)]


def examples(text):
    """(JSON record, the lines behind it that are no JSON) of all blocks of a text."""
    found = []
    for block in blocks(text):
        held = ""
        for line in block.splitlines():
            held = f"{held}\n{line}".strip() if held or line.startswith("{") else held
            record, end = _decoded(held)
            if record is not None:
                found.append((record, [held[end:].strip()] if held[end:].strip() else []))
                held = ""
            elif not held and found:
                found[-1][1].append(line.strip())
        assert not held, held
    return found


def _decoded(text):
    try:
        return json.JSONDecoder().raw_decode(text)
    except ValueError:
        return None, 0


def texts_of(path):
    return [record["text"] for record in records.documents(path)]


def test_each_file_of_text_is_read_as_the_page_says(tmp_path):
    named = re.findall(r"^`(x\.\w+)`.*:\n\n((?: {4}.*\n|\n(?= {4}))+)", SECTIONS["Files"], re.MULTILINE)
    assert [name for name, _ in named] == ["x.jsonl", "x.json", "x.csv", "x.tsv", "x.txt", "x.wet"]
    for name, content in named:
        (tmp_path / name).write_text(textwrap.dedent(content))
        assert texts_of(tmp_path / name) == DOCUMENTS, name


def test_each_binary_file_is_read_as_the_page_says(tmp_path, monkeypatch):
    from array_record.python import array_record_module

    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in blocks(SECTIONS["Files"]) if block.startswith("table = ")]
    exec(code, {"pyarrow": pyarrow, "json": json, "tf": start()[0], "array_record_module": array_record_module})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["x.array_record", "x.arrow", "x.feather", "x.parquet", "x.tfrecord"]
    for name in names:
        assert texts_of(tmp_path / name) == DOCUMENTS, name


def test_each_document_is_read_and_none_is_denied():
    for record, _ in [*examples(SECTIONS["Documents"]), *examples(SECTIONS["Ids"])]:
        records.refuse_denied("page:1", record)
        assert records.as_document(record, "page:1")["text"]
    ids = [(records.identity("page:1", record).id, says) for record, says in examples(SECTIONS["Ids"])]
    assert [i for i, _ in ids[:2]] == ["a7", "7"] and ids[2][0] == ids[3][0]


def test_each_instruction_example_becomes_the_dialogue_that_follows_it():
    seen, waiting = 0, []
    for record, says in examples(SECTIONS["Instruction data (SFT)"]):
        waiting.append(records.as_sft(record, "page:1")["messages"])
        if says:
            wanted = [tuple(turn.split(": ", 1)) for turn in re.split(r"\s{2,}(?=\w+: )", says[0]) if ": " in turn]
            for messages in waiting if wanted else ():
                found = [(m["role"], m["content"].replace("\n", "⏎")) for m in messages]
                assert found == wanted
            seen, waiting = seen + 1, []
    assert seen >= 6


def test_each_preference_is_the_same_pair():
    forms = examples(SECTIONS["Preferences"])
    assert len(forms) >= 10
    for record, _ in forms:
        made = records.as_preference(record, "page:1")
        assert made["messages"] == [{"role": "user", "content": "Name a colour of the sky."}]
        if "ranking" in made:
            texts = {response["id"]: response["text"] for response in made["responses"]}
            assert [texts[group[0]] for group in made["ranking"]] == ["Blue.", "Seven."]
        else:
            assert (made["chosen"], made["rejected"]) == ("Blue.", "Seven.")


def test_each_label_is_a_ranking_or_an_edit():
    answers = [{"label": label, "text": f"answer {label}"} for label in "ABCF"]
    asked = {"prompt_id": "p1", "batch_sha256": "0f3a…", "messages": [{"role": "user", "content": "?"}]}
    asked |= {"candidates": answers, "rank": True, "edit": True}
    kinds = [
        label_lines.check(label_lines.parse(json.dumps(line).encode()), {"p1": asked}, 100, lambda messages: 1)
        for line, _ in examples(SECTIONS["Labels"])
    ]
    assert kinds == ["rank", "edit"]


def test_each_question_is_read_with_the_answers_beside_it(tmp_path):
    section = SECTIONS["Questions whose answer a program knows"]
    lines, answers = (block for block in blocks(section) if block.startswith("{"))
    (tmp_path / "q.jsonl").write_text(lines)
    (tmp_path / "answers.json").write_text(answers)
    found = questions.load(tmp_path / "q.jsonl")
    assert [q.id for q in found] == ["capital-1", "sum-1", "price-1"] and "Oslo" in found[0].others
    assert questions.judge(found[2], "$9{,}500") and questions.judge(found[1], "12 + 5 = 17")
    assert not questions.judge(found[0], "Paris or Oslo")


def test_each_prompt_and_each_answer_is_read():
    prompts, scored = (
        [r for r, _ in examples(part)] for part in SECTIONS["Prompts and answers"].split("`tigerjax reward")
    )
    assert [sorted(record) for record in prompts] == [["messages", "prompt_id"], ["prompt_id", "text"]]
    for record in scored:
        _checked(record, "page:1")


def test_each_form_of_options_has_both(tmp_path):
    forms = [record for record, _ in examples(SECTIONS["Evaluation sets for decontamination"])]
    assert len(forms) >= len(decontaminate.OPTIONS)
    for record in forms:
        assert decontaminate.options(record) == ["Rome", "Oslo"], record
        (tmp_path / "set.jsonl").write_text(json.dumps(record))
        assert next(decontaminate.questions(tmp_path / "set.jsonl"))["text"].endswith("A. Rome\nB. Oslo")
    named = re.findall(
        r"`(\w+)`", SECTIONS["Evaluation sets for decontamination"].partition("has:")[2].partition(";")[0]
    )
    assert tuple(named) == decontaminate.FIELDS


ROWS = re.findall(r"^\| (\w+) \| (.*?) \| `(.*)` \|$", SECTIONS["Benchmarks"], re.MULTILINE)


@pytest.mark.parametrize("benchmark", sorted(BENCHMARKS))
def test_each_benchmark_is_read_in_each_of_its_layouts(tmp_path, benchmark):
    rows = [(re.findall(r"`(\S+)`", files), line) for name, files, line in ROWS if name == benchmark]
    headers = {"ceval": "id,question,A,B,C,D,answer", "cmmlu": ",Question,A,B,C,D,Answer"}
    assert rows and all(header in SECTIONS["Benchmarks"] for header in headers.values())
    layouts = [rows]
    if benchmark in ("mmlu", "c3"):  # one of two layouts
        layouts = [[row for row in rows if row[0][0] in own] for own in (("dev.jsonl", "m-dev.json", "d-dev.json"),)]
        layouts.append([row for row in rows if row not in layouts[0]])
    for n, layout in enumerate(layouts):
        parts = [files for files, _ in layout]
        together = benchmark in ("mmlu", "ceval", "cmmlu")  # the names are of files that belong together
        for names in [parts] if together else [[[file] for file in some] for some in _choices(parts)]:
            folder = tmp_path / f"{n}-{names[0][0].replace('/', '-')}"
            for files, (_, line) in zip(names, layout, strict=True):
                for file in files:
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    lines = [headers[benchmark]] if benchmark in headers else []
                    lines += [line] * (5 if together else 1)
                    (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
            assert list(BENCHMARKS[benchmark].read(folder)), (benchmark, names)


def _choices(parts):
    """Each name of each file once; files that belong together are taken side by side."""
    return [[names[min(n, len(names) - 1)] for names in parts] for n in range(max(map(len, parts)))]


def test_each_list_is_read(tmp_path):
    (block,) = blocks(SECTIONS["Lists"])
    (tmp_path / "list.txt").write_text(block + "\n\n")
    assert read_lines(str(tmp_path / "list.txt")) == ["first entry", "second entry"]
