"""The Label Studio project: what people see, and exports as the real server writes them."""

import copy
import json
from xml.etree import ElementTree as xml

import pytest
from test_labels import CIDS, EDITED, QUEUE, SHA, text_of
from test_labels import run as run_jsonl

from tigerjax.align.people import label_studio
from tigerjax.align.people import queue as queue_lib
from tigerjax.align.people.label_lines import AXES, check
from tigerjax.align.people.labels import import_labels
from tigerjax.errors import Blocked, DataError

PLAIN = next(item["prompt_id"] for item in QUEUE.items if not item["edit"])


def result(name, value, to_name="dialogue"):
    """One result as the labelling page of Label Studio 1.23.2 submitted it."""
    kind = {"ranking": "ranker", "base": "choices", "edit": "textarea", "note": "textarea"}.get(name, "rating")
    key = "text" if kind == "textarea" else kind
    region = {"value": {key: value}, "id": "wVOCoKbFA6", "from_name": name, "to_name": to_name, "type": kind}
    return region | {"origin": "manual"}


def ranked(ranking, reject=()):
    rest = [label for label in "ABCD" if label not in (*ranking, *reject)]
    return result("ranking", {"_": rest, "ranked": list(ranking), "reject": list(reject)}, "answers")


def annotation(number, *results, who=1, minute=0, **more):
    """Trimmed from `GET /api/projects/1/export?exportType=JSON` of Label Studio 1.23.2."""
    when = f"2026-11-27T08:{minute:02d}:41.997834Z"
    kept = {"id": number, "completed_by": who, "result": list(results), "was_cancelled": False, "ground_truth": False}
    kept |= {"created_at": when, "updated_at": when, "draft_created_at": None, "lead_time": 8.081, "prediction": {}}
    return kept | {"result_count": len(results), "task": 1, "project": 1, "updated_by": who} | more


def export(**annotations):
    """The whole queue as an export; annotations by prompt id."""
    out = []
    for number, task in enumerate(label_studio.tasks(QUEUE.items), start=1):
        said = annotations.get(task["data"]["prompt_id"], [])
        shared = {"drafts": [], "predictions": [], "meta": {}, "inner_id": number, "project": 1}
        out.append({"id": number, "annotations": said} | copy.deepcopy(task) | shared)
    return out


def good():
    both = (ranked("CA", "B"), result("base", ["A"]), result("edit", ["a better\nanswer"]))
    first = annotation(1, ranked("CA", "B"), result("safety", 4), result("note", ["记下"]), who=1)
    return export(**{PLAIN: [first], EDITED: [annotation(2, *both)]})


def run(tmp_path, value, allow_partial=False, more=()):
    file = tmp_path / "project-1.json"
    file.write_bytes(value if isinstance(value, bytes) else json.dumps(value, indent=1).encode())
    return import_labels(
        QUEUE.items,
        QUEUE.key,
        [*more, file],
        max_tokens=60,
        count_tokens=lambda messages: sum(len(m["content"]) for m in messages),
        allow_partial=allow_partial,
    )


def test_the_labelling_config_has_every_control_on_something_that_the_tasks_hold():
    view = xml.fromstring(label_studio.config())
    named = {element.get("name"): element for element in view.iter() if element.get("name")}
    assert set(label_studio.KINDS) | {"dialogue", "answers", "ranked", "reject"} == named.keys()
    assert {element.tag for element in view.iter()} == {
        *("View", "Style", "Header", "Paragraphs", "List", "Ranker", "Bucket", "Rating", "Choices", "TextArea")
    }
    tags = {"ranker": "Ranker", "choices": "Choices", "textarea": "TextArea", "rating": "Rating"}
    for name, kind in label_studio.KINDS.items():
        assert named[name].tag == tags[kind] and named[name].get("toName") in ("dialogue", "answers")
    assert [e.get("name") for e in view.iter("Rating")] == list(AXES)
    asked_for = {e.get("value")[1:] for e in view.iter() if (e.get("value") or "").startswith("$")}
    for task in label_studio.tasks(QUEUE.items):
        assert asked_for < task["data"].keys() and json.loads(json.dumps(task)) == task


def test_a_task_shows_what_the_queue_shows_in_its_order_and_neither_score_nor_candidate_id_nor_model():
    for item, task in zip(QUEUE.items, label_studio.tasks(QUEUE.items), strict=True):
        data = task["data"]
        assert [(a["id"], a["body"]) for a in data["answers"]] == [(c["label"], c["text"]) for c in item["candidates"]]
        assert data["labels"] == [{"value": c["label"]} for c in item["candidates"]]
        assert ("edit" in data["purpose"]) == item["edit"]
    secret = [
        {
            "prompt_id": "p",
            "messages": [{"role": "user", "content": "q", "model": "secret"}],
            "model_sha": "secret",
            "candidates": [
                {"cid": f"secret{k}", "text": f"t{k}", "finish": "stop", "score": 0.12345 + k, "model": "secret"}
                for k in range(3)
            ],
        }
    ]
    made = queue_lib.build(secret, rank_fraction=1.0, edit_fraction=1.0, edit_within_ranked=True, seed=0, round_index=1)
    shown = json.dumps(label_studio.tasks(made.items)) + label_studio.config()
    assert "secret" not in shown and "12345" not in shown
    orders = set()
    for seed in range(20):
        made = queue_lib.build(
            secret, rank_fraction=1.0, edit_fraction=1.0, edit_within_ranked=True, seed=seed, round_index=1
        )
        orders.add(tuple(a["body"] for a in label_studio.tasks(made.items)[0]["data"]["answers"]))
    assert len(orders) == 6


def test_prompts_that_are_only_edited_are_asked_for_that():
    records = [
        {
            "prompt_id": f"p{i}",
            "messages": [{"role": "user", "content": f"q{i}"}],
            "candidates": [{"cid": f"{i}-{k}", "text": f"{k}", "finish": "stop", "score": float(k)} for k in range(2)],
        }
        for i in range(4)
    ]
    made = queue_lib.build(
        records, rank_fraction=0.5, edit_fraction=0.25, edit_within_ranked=False, seed=0, round_index=1
    )
    purposes = [t["data"]["purpose"] for t in label_studio.tasks(made.items)]
    assert sorted(p.split()[0] for p in purposes) == ["Edit", "Rank", "Rank"]


def test_an_export_says_what_the_same_label_lines_say(tmp_path):
    got = run(tmp_path, good())
    signed = {"batch_sha256": SHA, "annotator": "label studio user 1"}
    order = {"ranking": [["C"], ["A"]], "reject": ["B"]}
    wanted = run_jsonl(
        tmp_path,
        [
            {"prompt_id": PLAIN, **signed, **order, "axes": {"safety": 4}, "note": "记下"},
            {"prompt_id": EDITED, **signed, **order},
            {"prompt_id": EDITED, **signed, "base": "A", "text": "a better\nanswer"},
        ],
    )
    assert got == wanted
    assert got.verdicts[PLAIN].ranking == [[CIDS[PLAIN][label]] for label in "CA"] + [
        [CIDS[PLAIN]["B"], CIDS[PLAIN]["D"]]
    ]


def test_two_annotators_are_averaged_and_opposites_go_to_adjudication(tmp_path):
    value = good()
    value[0]["annotations"] = [
        annotation(1, ranked("ABCD"), result("base", ["A"]), result("edit", ["x"])),
        annotation(2, ranked("DCBA"), who={"id": 2, "email": "bob@example.org"}),
    ]
    value[1]["annotations"] = [annotation(3, ranked("ABCD"), result("base", ["A"]), result("edit", ["x"]))]
    got = run(tmp_path, value)
    assert [(d["prompt_id"], d["kendall_tau"]) for d in got.adjudicate] == [(QUEUE.items[0]["prompt_id"], -1)]
    assert got.adjudicate[0]["annotators"] == ["bob@example.org", "label studio user 1"]


def test_the_newest_annotation_of_an_annotator_wins_wherever_it_stands(tmp_path):
    value = good()
    task = next(t for t in value if t["data"]["prompt_id"] == PLAIN)
    task["annotations"] = [annotation(8, ranked("B"), minute=30), annotation(9, ranked("C"), minute=10)]
    got = run(tmp_path, value)
    assert got.verdicts[PLAIN].ranking[0] == [CIDS[PLAIN]["B"]]
    assert got.counts["dropped"] == {"superseded": 1} and got.counts["in"] == 4 and got.counts["out"] == 3


def test_a_skipped_task_is_counted_and_its_labels_stay_missing(tmp_path):
    value = good()
    task = next(t for t in value if t["data"]["prompt_id"] == PLAIN)
    task["annotations"] = [annotation(1, was_cancelled=True)]
    with pytest.raises(Blocked, match="1 of 2 rankings and 0 of 1 edits"):
        run(tmp_path, value)
    got = run(tmp_path, value, allow_partial=True)
    assert got.counts["in"] == 3 == got.counts["out"] + sum(got.counts["dropped"].values())
    assert got.counts["dropped"]["skipped"] == 1 and got.missing["rank"] == [PLAIN]


def test_a_note_on_an_edit_alone_is_its_reason(tmp_path):
    lines = list(
        label_studio.lines(
            json.dumps(
                export(p1=[annotation(1, result("base", ["A"]), result("edit", ["x"]), result("note", ["why"]))])
            ).encode()
        )
    )
    assert [(line["base"], line["text"], line["reason"]) for _, line in lines] == [("A", "x", "why")]
    assert "ranking" not in lines[0][1]


EDIT = result("base", ["A"]), result("edit", ["better"])
BAD = {
    "nothing ranked": [ranked("")],
    "nothing at all": [],
    "axes alone": [result("safety", 3)],
    "a control of another config": [ranked("C"), result("sentiment", 1)],
    "a result that is no object": ["x"],
    "a result without value": [{"from_name": "note", "type": "textarea"}],
    "a control of another type": [result("ranking", 3) | {"type": "rating"}],
    "a control twice": [ranked("C"), ranked("A")],
    "buckets not lists": [result("ranking", {"ranked": "C"})],
    "buckets not an object": [result("ranking", ["C"])],
    "an unknown bucket": [result("ranking", {"ranked": ["C"], "maybe": ["A"]})],
    "a label in two buckets": [ranked("C", "C")],
    "a label not text": [result("ranking", {"ranked": [3]})],
    "a label that the prompt lacks": [ranked("Z")],
    "a rejected label that the prompt lacks": [ranked("A", "Z")],
    "six stars": [ranked("C"), result("safety", 6)],
    "half a star": [ranked("C"), result("safety", 0.5)],
    "two bases": [result("base", ["A", "B"]), EDIT[1]],
    "an edit without its base": [EDIT[1]],
    "a base without an edit": [EDIT[0]],
    "two edits": [EDIT[0], result("edit", ["one", "two"])],
    "an empty edit": [EDIT[0], result("edit", [" "])],
    "an edit equal to its base": [EDIT[0], result("edit", [text_of(EDITED, "A")])],
    "an edit with a marker": [EDIT[0], result("edit", ["x\n\n### Response:\ny"])],
    "an edit longer than the context": [EDIT[0], result("edit", ["x" * 80])],
    "a note that is no list": [ranked("C"), result("note", "hm")],
}


@pytest.mark.parametrize("kind", BAD)
def test_each_kind_of_mistake_is_caught_by_task_and_annotation_and_nothing_is_imported(tmp_path, kind):
    value = good()
    number, task = next((i, t) for i, t in enumerate(value, start=1) if t["data"]["prompt_id"] == EDITED)
    task["annotations"].append(annotation(77, *BAD[kind], who=5))
    with pytest.raises(DataError, match="nothing was imported") as error:
        run(tmp_path, value)
    listed = str(error.value).splitlines()[1:]
    assert len(listed) == 1 and f"project-1.json: task {number}, annotation 77: " in listed[0]


def sifted(value):
    """(the label lines that are left, what is said of the others)"""
    by_prompt = {item["prompt_id"]: item for item in QUEUE.items}
    limits = {"max_tokens": 60, "count_tokens": lambda messages: sum(len(m["content"]) for m in messages)}
    got = label_studio.sifted(value, lambda line: check(line, by_prompt, **limits))
    return [line for _, line in label_studio.lines(got.content)], got.wrong


@pytest.mark.parametrize("kind", BAD)
def test_a_wrong_annotation_is_left_out_of_an_export_and_named_and_all_others_stay(kind):
    value = good()
    task = next(t for t in value if t["data"]["prompt_id"] == EDITED)
    task["annotations"].append(annotation(77, *BAD[kind], completed_by={"email": "eve@example.org"}))
    left, wrong = sifted(value)
    assert left == sifted(good())[0] and len(left) == 3
    (line,) = wrong
    assert line.startswith(f"task {task['id']}, annotation 77 of eve@example.org: ") and "\n" not in line


def test_of_an_annotation_whose_ranking_or_edit_is_wrong_the_other_stays_and_a_skipped_one_too():
    value, note = good(), result("note", ["hm"])
    said = next(t for t in value if t["data"]["prompt_id"] == EDITED)["annotations"]
    before, wrong = sifted(value)
    assert not wrong
    said.append(annotation(7, ranked("CA"), result("safety", 4), EDIT[0], result("edit", [" "]), note, who=7))
    said.append(annotation(8, ranked("Z"), *EDIT, note, who=8))
    said.append(annotation(9, was_cancelled=True, who=9))
    said.append(annotation(10, ranked("Z"), EDIT[0], who=10))
    left, wrong = sifted(value)
    assert [line.partition(", ")[2].partition(":")[0] for line in wrong] == [f"annotation {n}" for n in (7, 8, 10, 10)]
    new = [line for line in left if line not in before]
    assert new[-1] is None and [line["annotator"][-1] for line in new[:-1]] == ["7", "8"]
    assert new[0]["ranking"] == [["C"], ["A"]] and (new[0]["axes"], new[0]["note"]) == ({"safety": 4}, "hm")
    assert new[1]["text"] == "better" and len(left) == len(before) + 3


def broken(change):
    """An export after `change(task)` of its first task."""
    value = good()
    change(value[0])
    return value


WRONG = {
    "not JSON": (b'[{"id": 1,', "project-1.json: broken JSON"),
    "not UTF-8": (b'[{"id": "\xff"}]', "project-1.json: invalid UTF-8"),
    "items that are no tasks": ([7, *good()], "item 1: is not a task"),
    "JSON-MIN": ([{"id": 1, "prompt_id": "p1", "ranking": []}], "task 1: is not a task with `data` .* not as JSON-MIN"),
    "annotations not a list": (broken(lambda t: t.update(annotations={})), "task 1: is not a task"),
    "an annotation that is no object": (broken(lambda t: t["annotations"].append(3)), "task 1: has an annotation"),
    "no results": (broken(lambda t: t["annotations"][0].pop("result")), "task 1: has an annotation without `result`"),
    "no time": (broken(lambda t: t["annotations"][0].pop("updated_at")), "task 1: .*`updated_at`"),
    "a time without zone": (
        broken(lambda t: t["annotations"][0].update(updated_at="2026-11-27T08:00:00")),
        "task 1: .*no time zone",
    ),
    "no annotator": (broken(lambda t: t["annotations"][0].pop("completed_by")), "annotation .: does not say who"),
    "no prompt id": (broken(lambda t: t["data"].pop("prompt_id")), "annotation .: `prompt_id` is missing"),
    "a prompt of another queue": (broken(lambda t: t["data"].update(prompt_id="p9")), "'p9' is not in the queue"),
    "a stale batch": (broken(lambda t: t["data"].update(batch_sha256="0" * 64)), "is stale"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_each_way_in_which_an_export_is_not_ours_is_named(tmp_path, kind):
    value, says = WRONG[kind]
    with pytest.raises(DataError, match=rf"nothing was imported:\n.*{says}"):
        run(tmp_path, value)


def test_all_mistakes_of_all_files_are_listed_and_good_ones_beside_them_are_not_imported(tmp_path):
    lines = tmp_path / "more.jsonl"
    lines.write_text('{"prompt_id": 7}\n')
    value = good()
    task = next(t for t in value if t["data"]["prompt_id"] == EDITED)
    task["annotations"] += [annotation(number, *results) for number, results in enumerate(BAD.values(), start=100)]
    with pytest.raises(DataError) as error:
        run(tmp_path, value, more=[lines])
    listed = str(error.value).splitlines()[1:]
    assert "more.jsonl:1: " in listed[0]
    assert [int(line.split("annotation ")[1].split(":")[0]) for line in listed[1:]] == [
        *range(100, 100 + len(BAD)),
    ]
