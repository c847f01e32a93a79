"""A team: who is asked what, gold questions, whose labels count, what is waited for, and what the adjudicator gets."""

import datetime
import json
from collections import Counter

import pytest

from tigerjax.align.config import AlignConfig
from tigerjax.align.people import assign, gold, quality
from tigerjax.align.people import labels as labels_lib
from tigerjax.align.people import queue as queue_lib
from tigerjax.align.people.agreement import alpha
from tigerjax.align.people.gold import GoldQuestion, Record
from tigerjax.align.people.panel import Panel
from tigerjax.errors import Blocked, ConfigError, DataError

PEOPLE = ["ann", "bob", "cat", "dan", "eve"]
GOLDS = [GoldQuestion([{"role": "user", "content": f"gold {i}"}], [[f"good {i}"], [f"bad {i}"]]) for i in range(30)]
DUE = datetime.datetime(2026, 5, 11, tzinfo=datetime.UTC)


def config(**more) -> AlignConfig:
    return AlignConfig(prompt_fraction=0.1, seed=0, **({"people": PEOPLE} | more))


def team(prompts=50, golds=GOLDS, **more) -> assign.Team:
    records = [
        {
            "prompt_id": f"e{p}",
            "messages": [{"role": "user", "content": f"question {p}"}],
            "candidates": [
                {"cid": f"e{p}-{k}", "text": f"answer {k} of {p}", "finish": "stop", "score": k / 2} for k in range(4)
            ],
        }
        for p in range(prompts)
    ]
    asked = queue_lib.build(
        records, rank_fraction=1.0, edit_fraction=0.1, edit_within_ranked=True, seed=0, round_index=1
    )
    return assign.build(asked, golds, config(**more), 1)


def test_every_prompt_is_asked_of_k_people_and_everybody_has_as_many_and_pairs_overlap():
    made = team()
    golds = {entry["prompt_id"] for entry in made.queue.key if "right" in entry}
    prompts = [a for a in made.assignments if a["prompt_id"] not in golds]
    assert len(prompts) == 50 and all(len(set(a["people"])) == 2 for a in prompts)
    assert set(Counter(p for a in prompts for p in a["people"]).values()) == {20}
    assert len(Counter(tuple(sorted(a["people"])) for a in prompts)) == 10  # every pair of five has prompts in common
    edits = [a["edit_by"] for a in made.assignments if a["edit_by"]]
    assert len(edits) == 5 and all(a["edit_by"] in a["people"] for a in made.assignments if a["edit_by"])
    assert team() == made and team(per_prompt=3).assignments != made.assignments
    own = assign.own_items(made.queue.items, made.assignments, "ann")
    assert sum(item["edit"] for item in own) == edits.count("ann")


def test_a_gold_question_looks_like_any_other_and_stands_among_them():
    made = team()
    golds = {entry["prompt_id"] for entry in made.queue.key if "right" in entry}
    for person in PEOPLE:
        own = assign.own_items(made.queue.items, made.assignments, person)
        places = [place for place, item in enumerate(own) if item["prompt_id"] in golds]
        assert len(places) == gold.LEAST and places != list(range(20, 23))
        assert len({tuple(sorted(item)) for item in own}) == 1  # the same fields
        assert {len(item["prompt_id"]) for item in own} == {18} and len({i["batch_sha256"] for i in own}) == 1
        assert not any("right" in item or "of" in item or "score" in json.dumps(item) for item in own)
    firsts = {entry["right"][0][0] for entry in made.queue.key if "right" in entry}
    assert firsts == {"A", "B"}  # the better answer has no place of its own
    assert not [entry for entry in team(gold_share=0).queue.key if "right" in entry]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"people": ["ann", "ann"]}, "'ann' twice"),
        ({"people": ["ann/bob", "cat"]}, "is no name"),
        ({"people": ["..", "cat"]}, "is no name"),
        ({"people": ["ann"]}, "per_prompt=2 is more than the 1"),
        ({"people": ["ann", "bob"], "adjudicator": "bob"}, "'bob' twice"),
        ({"people": [], "adjudicator": "jo"}, "align.people names nobody"),
    ],
)
def test_a_team_that_cannot_be_is_refused(more, said):
    with pytest.raises(ConfigError, match=said):
        config(**more)


def test_gold_questions_are_read_from_preferences_and_from_checkable_questions(tmp_path, capfd):
    file = tmp_path / "gold.jsonl"
    pair = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
    many = {"messages": [{"role": "user", "content": "Hi"}], "ranking": [["a"], ["b", "c"]]}
    many["responses"] = [{"id": name, "text": f"text {name}"} for name in "abc"]
    file.write_text(json.dumps(pair) + "\n" + json.dumps(many) + "\n")
    assert [one.groups for one in gold.read(file)] == [[["Blue."], ["Seven."]], [["text a"], ["text b", "text c"]]]
    asked = [("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid")]
    questions = [
        {"id": f"c{i}", "lang": "en", "task": "capital", "prompt": f"The capital of {land}?", "answers": [city]}
        for i, (land, city) in enumerate(asked)
    ]
    questions.append({"id": "s", "lang": "en", "task": "sum", "prompt": "2 + 2?", "answers": ["4"]})
    file.write_text("".join(json.dumps(q) + "\n" for q in questions))
    found = gold.read(file)
    assert found[0].groups[0] == ["Paris"] and sorted(found[0].groups[1]) == ["Madrid", "Rome"]
    assert len(found) == 3 and "1 of 4 have no wrong answer" in capfd.readouterr().err
    for wrong, said in (
        (many | {"ranking": [["a", "b", "c"]]}, "two answers or more"),
        (many | {"ranking": [["a"], ["z"]]}, "ids of responses"),
    ):
        file.write_text(json.dumps(wrong) + "\n")
        with pytest.raises(DataError, match=f"gold.jsonl:1.*{said}"):
            gold.read(file)
    with pytest.raises(DataError, match="gold_questions of the alignment does not exist"):
        gold.read(tmp_path / "none")


def test_alpha_is_that_of_krippendorffs_own_example():
    """Four observers, twelve units, some values missing (Krippendorff 2011): 0.815 for ordinal values."""
    table = [[1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None], [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3]]
    table += [[None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None]]
    units = [[v for v in unit if v is not None] for unit in zip(*table, strict=True)]
    assert alpha(units) == pytest.approx(0.815, abs=5e-4)
    assert alpha([[1, 1], [2, 2], [3]]) == 1 and alpha([[1, 2], [1, 2]]) < 0
    assert alpha([[1], [2]]) is None and alpha([[1, 1], [1, 1]]) is None


def said(made: assign.Team, how, people=PEOPLE, day=None):
    """Label lines: `how(person, names)` orders the answers, whose better ones come first in `names`."""
    true = {e["prompt_id"]: [n for g in e["right"] for n in g] for e in made.queue.key if "right" in e}
    cids = {e["prompt_id"]: {cids[0]: name for name, cids in e["labels"].items()} for e in made.queue.key}
    out = []
    for person in people:
        for n, item in enumerate(assign.own_items(made.queue.items, made.assignments, person)):
            p = item["prompt_id"]
            names = true.get(p) or [cids[p][cid] for cid in sorted(cids[p], reverse=True)]
            line = {"prompt_id": p, "batch_sha256": item["batch_sha256"], "annotator": person}
            line |= {"at": (DUE - datetime.timedelta(days=7 - 7 * n / 30)).isoformat()} if day else {}
            out.append(line | {"ranking": [[name] for name in how(person, names, n)]})
    return out


def bad_eve(person, names, n):
    return names[::-1] if person == "eve" else names


def panel(made, **more) -> Panel:
    given = {"people": PEOPLE, "assignments": made.assignments, "min_gold": 0.7, "set_aside": True}
    given |= {"min_agreement": 0.0, "adjudicator": None, "due": DUE, "now": DUE - datetime.timedelta(days=1)}
    return Panel(**(given | more))


def taken(tmp_path, made, lines, *, allow_partial=False, **more):
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return labels_lib.import_labels(
        made.queue.items,
        made.queue.key,
        [file],
        max_tokens=99,
        count_tokens=lambda messages: 1,
        allow_partial=allow_partial,
        panel=panel(made, **more),
    )


def edits(made):
    """An edit of each prompt that is to be edited, by whom it is asked."""
    return [
        {"prompt_id": a["prompt_id"], "annotator": a["edit_by"], "base": "A", "text": "better"}
        | {"batch_sha256": made.queue.items[0]["batch_sha256"]}
        for a in made.assignments
        if a["edit_by"]
    ]


def test_labels_of_who_fails_the_gold_questions_are_set_aside_counted_and_come_back_by_a_setting(tmp_path):
    made = team()
    lines = said(made, bad_eve)
    got = taken(tmp_path, made, lines, allow_partial=True)
    of_eve = sum(line["annotator"] == "eve" for line in lines) - gold.LEAST
    assert got.counts["dropped"]["set_aside"] == of_eve == 20 and got.counts["dropped"]["gold"] == 15
    assert got.counts["in"] == got.counts["out"] + sum(got.counts["dropped"].values())
    (note,) = [n for n in got.notes if "eve" in n]
    assert "adversarial" in note and "0% right on 3 gold questions" in note and "--align.no-set-aside" in note
    assert not got.adjudicate and all("eve" not in v.annotators for v in got.verdicts.values())
    assert sorted(got.verdicts)[:2] == ["e0", "e1"]  # the prompts' own ids
    back = taken(tmp_path, made, lines, allow_partial=True, set_aside=False)
    assert "set_aside" not in back.counts["dropped"] and len(back.adjudicate) == 20
    # A record of earlier rounds counts too.
    before = {"ann": Record(right=0.0, questions=40)}
    assert taken(tmp_path, made, lines, allow_partial=True, earlier=before).records["ann"] == Record(3.0, 43)


def test_a_round_waits_for_the_team_until_the_day_and_then_for_one_label_of_each_prompt(tmp_path):
    made = team()
    lines = [*said(made, lambda person, names, n: names, people=PEOPLE[:4]), *edits(made)]
    with pytest.raises(Blocked, match=r"still to come until 2026-05-11 00:00 UTC: eve 2[0-9]"):
        taken(tmp_path, made, lines)
    late = DUE + datetime.timedelta(minutes=1)
    assert taken(tmp_path, made, lines, now=late).counts["missing_rank"] == 0
    assert taken(tmp_path, made, lines, allow_partial=True).counts["missing_rank"] == 0
    few = [line for line in lines if line["annotator"] != "ann"]
    with pytest.raises(Blocked, match=r"labels are missing: [1-9]"):
        taken(tmp_path, made, few, now=late)


def test_where_people_disagree_the_adjudicators_ranking_alone_counts(tmp_path):
    made = team(golds=[], gold_share=0)
    lines = [*said(made, bad_eve), *edits(made)]
    with pytest.raises(Blocked, match=r"people disagree on 20 prompts, such as q-.* the adjudicator, jo"):
        taken(tmp_path, made, lines, adjudicator="jo")
    waiting = panel(made, adjudicator="jo")
    found = {(line["prompt_id"], "rank", line["annotator"]): line for line in lines if "ranking" in line}
    wanted = waiting.for_adjudicator(waiting.counted(found, made.queue.key), found, made.queue.key)
    assert len(wanted) == 20
    jo = [line | {"annotator": "jo"} for line in said(made, lambda person, names, n: names)]
    jo = {line["prompt_id"]: line for line in jo if line["prompt_id"] in wanted}
    got = taken(tmp_path, made, [*lines, *jo.values()], adjudicator="jo")
    assert got.counts["dropped"]["adjudicated"] == 40 and not got.adjudicate
    assert all(v.ranking[0][0].endswith("-3") for v in got.verdicts.values())  # the best answer of each
    assert taken(tmp_path, made, lines).counts["disagreements"] == 20  # without an adjudicator points are added up


def test_drift_and_low_agreement_are_named_with_their_figures_by_day(tmp_path):
    made = team(golds=[], gold_share=0)

    def tired(person, names, n):
        return names[::-1] if person == "dan" and n >= 10 else names

    lines = {(x["prompt_id"], "rank", x["annotator"]): x for x in said(made, tired, day=True)}
    for (_, _, person), line in lines.items():
        line["axes"] = {"safety": 5 if line["prompt_id"] < "q-8" else 2 + (person == "dan")}
    found = quality.figures(panel(made), lines, made.queue.key, [])
    people = {one["person"]: one for one in found["people"]}
    assert people["dan"]["drift"] < -1.5 and any(
        r.startswith("drift: Kendall's tau fell") for r in people["dan"]["named"]
    )
    assert people["ann"]["named"] == [] and people["ann"]["to_come"] == 1 and people["ann"]["asked"] == 20
    assert [d["day"] for d in people["dan"]["days"]] == [f"2026-05-0{n}" for n in range(4, 9)]
    assert people["dan"]["days"][0]["tau_sound"] == 1 and people["dan"]["days"][-1]["tau_sound"] == -1
    assert 0 < found["alpha"]["safety"] < 1 and found["alpha"]["ranking"] < 1
    assert people["dan"]["alpha"]["ranking"] < people["ann"]["alpha"]["ranking"]


def test_whoever_owes_an_edit_owes_the_question_and_after_the_day_a_ranking_is_enough(tmp_path):
    made = team(golds=[], gold_share=0)
    ranks = said(made, lambda person, names, n: names)
    owed = Counter(a["edit_by"] for a in made.assignments if a["edit_by"])
    found = {(line["prompt_id"], "rank", line["annotator"]): line for line in ranks}
    assert panel(made).to_come(found, []) == {person: owed[person] for person in PEOPLE if owed[person]}
    with pytest.raises(Blocked, match="0 of 50 rankings and 5 of 5 edits"):
        taken(tmp_path, made, ranks)
    late = DUE + datetime.timedelta(minutes=1)
    assert taken(tmp_path, made, ranks, now=late).counts["missing_edit"] == 5
    short = [line for line in ranks if line["prompt_id"] != ranks[0]["prompt_id"]]
    with pytest.raises(Blocked, match="1 of 50 rankings"):  # this one has no label at all
        taken(tmp_path, made, short, now=late)


def test_an_edit_of_whoever_is_set_aside_is_not_waited_for_where_somebody_elses_ranking_counts(tmp_path):
    made = team()
    asked = edits(made)
    bad = asked[0]["annotator"]  # the one who is asked for at least one edit
    lines = said(made, lambda person, names, n: names[::-1] if person == bad else names) + asked
    got = taken(tmp_path, made, lines)
    lost = sum(edit["annotator"] == bad for edit in asked)
    assert got.counts["missing_edit"] == lost > 0 and got.counts["edits"] == len(asked) - lost
    others = [line for line in lines if "text" not in line or line["annotator"] == bad]
    assert lost < len(asked)
    with pytest.raises(Blocked, match=f"0 of 50 rankings and {len(asked) - lost} of {len(asked)} edits"):
        taken(tmp_path, made, others)  # an edit of somebody whose labels count is waited for


def test_what_waits_for_the_adjudicator_is_said_where_labels_are_missing(tmp_path):
    made = team()
    wrong = said(made, lambda person, names, n: names[::-1])
    with pytest.raises(Blocked, match=r"50 of 50 rankings .*; 50 prompts wait for the adjudicator, jo; import them"):
        taken(tmp_path, made, wrong, adjudicator="jo")
    # Everybody of the team has answered, so nobody is late, and nothing would come.
    said_so = r"50 of 50 rankings .*; --align.adjudicator NAME asks somebody for the 50 prompts whose labels are all"
    for now in (DUE - datetime.timedelta(days=1), DUE + datetime.timedelta(days=1)):
        with pytest.raises(Blocked, match=said_so):
            taken(tmp_path, made, wrong, now=now)


def test_labels_of_a_name_that_is_not_of_the_team_are_named_and_counted(tmp_path):
    made = team(people=["ann@example.org", "bob@example.org"])
    names = {"people": ["ann@example.org", "bob@example.org"]}
    lines = said(made, lambda person, names, n: names, people=names["people"])
    assert not taken(tmp_path, made, lines, allow_partial=True, **names).notes
    for line in lines:
        line["annotator"] = line["annotator"].replace("ann@example", "ann@exmaple").replace("bob@", "eve@")
    got = taken(tmp_path, made, lines, allow_partial=True, **names)
    (slip, other) = [note for note in got.notes if "not in align.people" in note]
    count = sum(line["annotator"].startswith("ann") for line in lines)
    assert slip.startswith(f"labels: {count} of ann@exmaple.org, who is not in align.people")
    assert "did you mean ann@example.org?" in slip
    assert "eve@example.org" in other and "did you mean" not in other  # of the same domain, and somebody else
    for name in ("ANN@Example.Org", " ann@example.org"):
        lines[0]["annotator"] = name
        notes = taken(tmp_path, made, lines, allow_partial=True, **names).notes
        assert any("did you mean ann@example.org?" in note and note.startswith("labels: 1 of") for note in notes)


def test_two_names_that_differ_in_case_only_are_refused():
    with pytest.raises(ConfigError, match="'ann' and 'Ann', which differ in case only"):
        config(people=["ann", "bob", "Ann"])
    with pytest.raises(ConfigError, match="differ in case only"):
        config(people=["ann", "bob"], adjudicator="BOB")
