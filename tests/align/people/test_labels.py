"""Label files: every mistake is named by its line, nothing is imported then, and good lines are combined rightly."""

import json

import pytest

from tigerjax.align.people import queue as queue_lib
from tigerjax.align.people.labels import import_labels
from tigerjax.errors import Blocked, DataError


def asked():
    records = [
        {
            "prompt_id": p,
            "messages": [{"role": "user", "content": f"question of {p}"}],
            "candidates": [
                {"cid": f"{p}-{k}", "text": f"answer {k}", "finish": "stop", "score": float(k)} for k in range(4)
            ],
        }
        for p in ("p1", "p2")
    ]
    return queue_lib.build(
        records, rank_fraction=1.0, edit_fraction=0.5, edit_within_ranked=True, seed=0, round_index=1
    )


QUEUE = asked()
SHA = QUEUE.items[0]["batch_sha256"]
EDITED = next(item["prompt_id"] for item in QUEUE.items if item["edit"])
CIDS = {entry["prompt_id"]: {name: cids[0] for name, cids in entry["labels"].items()} for entry in QUEUE.key}


def ranking(prompt="p1", order=(("C",), ("A", "D"), ("B",)), who="ann", **more):
    line = {"prompt_id": prompt, "batch_sha256": SHA, "annotator": who, "ranking": [list(g) for g in order]}
    return line | more


def edit(prompt=EDITED, base="A", text="a better answer", who="ann", **more):
    return {"prompt_id": prompt, "batch_sha256": SHA, "annotator": who, "base": base, "text": text} | more


def text_of(prompt, label):
    item = next(i for i in QUEUE.items if i["prompt_id"] == prompt)
    return next(c["text"] for c in item["candidates"] if c["label"] == label)


def run(tmp_path, lines, allow_partial=False):
    file = tmp_path / "labels.jsonl"
    file.write_bytes(b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines) + b"\n")
    return taken(file, allow_partial)


def taken(file, allow_partial=False):
    return import_labels(
        QUEUE.items,
        QUEUE.key,
        [file],
        max_tokens=60,
        count_tokens=lambda messages: sum(len(m["content"]) for m in messages),
        allow_partial=allow_partial,
    )


def without(line, field):
    return {k: v for k, v in line.items() if k != field}


GOOD = [ranking("p1"), ranking("p2"), edit()]


def test_a_filled_in_template_is_imported_and_one_that_is_not_names_each_line(tmp_path):
    """What a person does in an editor: a name, an order, a text."""
    lines = queue_lib.template(QUEUE.items)
    with pytest.raises(DataError, match=r"3 of 3 label lines are wrong(.*\n.*`annotator` is missing, empty){3}"):
        run(tmp_path, lines)
    for line in lines:
        line |= {"annotator": "ann"} | (
            {"ranking": [["B"], ["A"]]} if "ranking" in line else {"base": "A", "text": "x"}
        )
    counts = run(tmp_path, lines).counts
    assert (counts["rankings"], counts["edits"], counts["missing_rank"], counts["missing_edit"]) == (2, 1, 0, 0)


def test_the_page_says_how_to_answer_and_of_which_question_an_answer_is_rewritten():
    page = queue_lib.markdown(QUEUE.items)
    assert "template.jsonl" in page and "tigerjax align import" in page
    assert page.count("(rank, and rewrite the best)") == 1 and f"## {EDITED} (rank" in page
    alone = [item | {"rank": False} for item in QUEUE.items if item["edit"]]
    assert f"## {EDITED} (rewrite the best)" in queue_lib.markdown(alone)
    assert [set(line) & {"ranking", "base"} for line in queue_lib.template(alone)] == [{"base"}]


BAD = {
    "broken JSON": b'{"prompt_id": "p1",',
    "nested too deep": b"[" * 100_000,
    "not an object": b"[1, 2]",
    "invalid UTF-8": b'{"prompt_id": "\xff"}',
    "field given twice": b'{"prompt_id": "p1", "prompt_id": "p2"}',
    "neither ranking nor edit": {"prompt_id": "p1", "batch_sha256": SHA, "annotator": "ann"},
    "ranking and edit at once": ranking() | {"text": "x"},
    "unknown field": ranking() | {"rankings": []},
    "unknown field in an edit": edit() | {"axes": {}},
    "prompt_id missing": without(ranking(), "prompt_id"),
    "prompt_id not text": ranking() | {"prompt_id": 7},
    "prompt unknown": ranking("p9"),
    "batch_sha256 missing": without(ranking(), "batch_sha256"),
    "batch_sha256 stale": ranking() | {"batch_sha256": "0" * 64},
    "annotator missing": without(ranking(), "annotator"),
    "annotator blank": ranking(who="  "),
    "annotator that nobody sees": ranking(who="\u200b"),
    "ranking not a list": ranking() | {"ranking": "CAB"},
    "group not a list": ranking() | {"ranking": ["C", "A"]},
    "group empty": ranking() | {"ranking": [["C"], []]},
    "ranking empty": ranking() | {"ranking": []},
    "label not text": ranking() | {"ranking": [[3]]},
    "label unknown": ranking(order=(("Z",),)),
    "label lower case": ranking(order=(("c",),)),
    "label twice over groups": ranking(order=(("A",), ("A",))),
    "label twice in a group": ranking(order=(("A", "A"),)),
    "reject not a list": ranking(reject="B"),
    "reject unknown": ranking(reject=["Q"]),
    "reject twice": ranking(reject=["B", "B"]),
    "axes not an object": ranking(axes=[5]),
    "axis unknown": ranking(axes={"beauty": 3}),
    "axis out of range": ranking(axes={"safety": 6}),
    "axis not whole": ranking(axes={"safety": 2.5}),
    "axis a truth value": ranking(axes={"safety": True}),
    "note not text": ranking(note=5),
    "base missing": without(edit(), "base"),
    "base unknown": edit(base="Q"),
    "base not text": edit(base=1),
    "text missing": without(edit(), "text"),
    "text not text": edit(text=["x"]),
    "text blank": edit(text=" \n "),
    "text of characters that nobody sees": edit(text="\u200b\ufeff \u200e"),
    "text equal to its base": edit(text=text_of(EDITED, "A") + " "),
    "text with a marker": edit(text="well\n\n### Response:\nno"),
    "text with the pad marker": edit(text="well<pad>"),
    "text with half a surrogate pair": b'{"prompt_id": "%s", "batch_sha256": "%s", "annotator": "a", "base": "A",'
    b' "text": "x\\ud800"}' % (EDITED.encode(), SHA.encode()),
    "annotator with half a surrogate pair": json.dumps(ranking(who="\ud800")).encode(),
    "note with half a surrogate pair": json.dumps(ranking(note="x\udfff")).encode(),
    "number of 5,000 digits": b'{"prompt_id": "p1", "note": ' + b"9" * 5_000 + b"}",
    "text longer than the context": edit(text="x" * 80),
    "reason not text": edit(reason=1),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_kind_of_mistake_is_caught_by_its_line_and_nothing_is_imported(tmp_path, kind):
    with pytest.raises(DataError, match="nothing was imported") as error:
        run(tmp_path, [GOOD[0], BAD[kind], *GOOD[1:]])
    listed = str(error.value).splitlines()[1:]
    assert len(listed) == 1 and "labels.jsonl:2: " in listed[0]


def test_control_sequences_of_a_label_line_are_shown_by_their_codes(tmp_path):
    with pytest.raises(DataError) as error:
        run(tmp_path, [*GOOD, ranking() | {"batch_sha256": "\x1b[2J\x1b]0;title\x07"}, ranking("\x1b[1m")])
    assert "\x1b" not in str(error.value) and r"\x1b[2J" in str(error.value) and r"'\x1b[1m'" in str(error.value)


def test_a_label_file_with_a_byte_order_mark_is_read(tmp_path):
    got = run(tmp_path, [b"\xef\xbb\xbf" + json.dumps(GOOD[0]).encode(), *GOOD[1:]])
    assert got.counts["rankings"] == 2


def test_a_prompt_id_in_the_questions_for_people_is_no_markup():
    hostile = "<script>\x1b[2J`` \n# x"
    text = queue_lib.markdown([QUEUE.items[0] | {"prompt_id": hostile}, QUEUE.items[1]])
    assert "\x1b" not in text and "## ``` <script>\ufffd[2J`` # x ```" in text and "## p2" in text


def test_all_mistakes_of_a_file_are_listed_at_once(tmp_path):
    assert len(BAD) >= 30
    with pytest.raises(DataError) as error:
        run(tmp_path, [line for bad in BAD.values() for line in (GOOD[0], bad)])
    found = [line.split("labels.jsonl:")[1].split(":")[0] for line in str(error.value).splitlines()[1:]]
    assert found == [str(2 * i + 2) for i in range(len(BAD))]


def test_a_label_file_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        import_labels(QUEUE.items, QUEUE.key, [tmp_path / "no"], max_tokens=9, count_tokens=len, allow_partial=True)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", b"\xef\xbb\xbf[ ]", b'[{"data": {}, "annotations": []}]'])
def test_a_file_without_a_label_is_an_error_that_says_so(tmp_path, content):
    (tmp_path / "none.json").write_bytes(content)
    with pytest.raises(DataError, match=r"none\.json: 0 labels in it, nothing was imported; .* leave the file out"):
        taken(tmp_path / "none.json", allow_partial=True)


def test_a_file_of_skipped_tasks_is_taken_and_named(tmp_path):
    annotation = {"result": [], "updated_at": "2026-01-01T00:00:00Z", "was_cancelled": True, "id": 1}
    (tmp_path / "skipped.json").write_text(json.dumps([{"data": {}, "annotations": [annotation]}]))
    made = taken(tmp_path / "skipped.json", allow_partial=True)
    assert made.notes == [f"labels: {tmp_path}/skipped.json: 0 labels in it; its 1 tasks were all skipped"]


def test_every_good_form_is_accepted_without_a_false_alarm(tmp_path):
    lines = [
        ranking("p1", axes={"factuality": 5, "format": 1}, note="记下", reject=["B"]),
        ranking("p2", order=(("B",),)),
        ranking("p2", order=(), who="bob", reject=["A"]),
        edit(reason="clearer"),
        edit(who="bob", base="B"),
        b"",
        b"   ",
    ]
    got = run(tmp_path, lines)
    assert got.counts["rankings"] == 3 and got.counts["edits"] == 2 and got.counts["dropped"]["superseded"] == 0


def test_a_partial_ranking_puts_unlisted_answers_last_and_tied(tmp_path):
    got = run(tmp_path, [ranking("p1", order=(("C",),)), *GOOD[1:]])
    cids = CIDS["p1"]
    assert got.verdicts["p1"].ranking == [[cids["C"]], [cids["A"], cids["B"], cids["D"]]]


def test_the_newest_line_of_an_annotator_wins(tmp_path):
    got = run(tmp_path, [ranking("p1", order=(("B",),)), *GOOD, edit(text="newest")])
    assert got.verdicts["p1"].ranking[0] == [CIDS["p1"]["C"]]
    assert [e["text"] for e in got.verdicts[EDITED].edits] == ["newest"]
    assert got.counts["in"] == 5 and got.counts["dropped"]["superseded"] == 2


def test_annotators_are_averaged_and_opposites_go_to_adjudication(tmp_path):
    flat = (("A",), ("B",), ("C",), ("D",))
    got = run(tmp_path, [ranking("p1", flat), ranking("p1", flat[::-1], who="bob"), *GOOD[1:]])
    assert [d["prompt_id"] for d in got.adjudicate] == ["p1"]
    assert got.adjudicate[0]["kendall_tau"] == -1
    assert len(got.verdicts["p1"].ranking) == 1  # equal means: all tied
    agreed = run(tmp_path, [ranking("p1", flat), ranking("p1", flat, who="bob"), *GOOD[1:]])
    assert not agreed.adjudicate and len(agreed.verdicts["p1"].ranking) == 4


def test_one_annotators_rejection_stands_whatever_the_others_rank(tmp_path):
    got = run(tmp_path, [*GOOD, ranking("p1", order=(("A",),), who="bob", reject=["C"])])
    assert got.verdicts["p1"].rejected == [CIDS["p1"]["C"]]


def test_missing_labels_block_with_counts_or_are_recorded(tmp_path):
    # Who brings a part of them sees that it was taken.
    with pytest.raises(Blocked, match=r"1 of 2 rankings and 1 of 1 edits, such as p2 \(labels that are imported: 1\)"):
        run(tmp_path, [ranking("p1")])
    got = run(tmp_path, [ranking("p1")], allow_partial=True)
    assert got.missing == {"rank": ["p2"], "edit": [EDITED]}


def other():
    return next(item["prompt_id"] for item in QUEUE.items if not item["edit"])


def test_an_edit_that_nobody_asked_for_is_taken_counted_and_named(tmp_path):
    got = run(tmp_path, [*GOOD, edit(other())])
    assert got.counts["unasked_edit"] == 1 and got.counts["edits"] == 2
    assert got.verdicts[other()].edits[0]["text"] == "a better answer"
    assert got.notes == [f"labels: 1 edits of prompts that nobody was asked to edit; they are used, such as {other()}"]


def test_a_ranking_that_nobody_asked_for_is_taken_counted_and_named(tmp_path):
    items = [item | {"rank": item["prompt_id"] == "p1"} for item in QUEUE.items]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in GOOD))
    got = import_labels(
        items, QUEUE.key, [tmp_path / "labels.jsonl"], max_tokens=60, count_tokens=len, allow_partial=False
    )
    assert got.counts["unasked_rank"] == 1 and "nobody was asked to rank; they are used, such as p2" in got.notes[0]


def test_an_edit_of_an_answer_that_the_same_person_rejected_is_taken_with_a_note(tmp_path):
    got = run(tmp_path, [*GOOD, ranking(EDITED, order=(("C",),), reject=["A"])])
    assert got.counts["edit_of_rejected"] == 1 and got.verdicts[EDITED].edits and got.verdicts[EDITED].rejected
    assert "of an answer that the same annotator rejected" in got.notes[0]
    others = run(tmp_path, [*GOOD, ranking(EDITED, order=(("C",),), who="bob", reject=["A"])])
    assert others.notes == [] and "edit_of_rejected" not in others.counts


def test_a_first_answer_that_the_same_person_rejected_is_named(tmp_path):
    got = run(tmp_path, [*GOOD[1:], ranking("p1", reject=["C"])])
    assert got.counts["best_is_rejected"] == 1 and "whose first answer the same annotator rejected" in got.notes[0]
    assert run(tmp_path, [*GOOD[1:], ranking("p1", reject=["B"])]).notes == []


def test_ordinary_labels_give_no_note_and_no_count(tmp_path):
    got = run(tmp_path, GOOD)
    assert got.notes == [] and not {"unasked_edit", "unasked_rank", "edit_of_rejected"} & got.counts.keys()


def test_a_label_file_that_is_not_there_is_named_alone(tmp_path):
    file = tmp_path / "absent.jsonl"
    with pytest.raises(DataError) as error:
        taken(file)
    assert str(error.value) == f"{file}: label file does not exist, nothing was imported; give another path"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_label_file_in_utf_16_is_named_once(tmp_path, encoding):
    file = tmp_path / "labels.jsonl"
    mark = "\ufeff" if encoding.endswith("be") else ""
    file.write_bytes((mark + "\r\n".join(map(json.dumps, GOOD))).encode(encoding))
    with pytest.raises(DataError, match=r"^1 of 1 label lines are wrong.*\n  .*labels.jsonl: is UTF-16.*; save it as"):
        taken(file)
