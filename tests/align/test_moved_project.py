"""A project is the same by whatever path it is called, and after it was moved: no step is done again."""

import shutil

from tiny_project import align, build

from tigerjax.files import manifest

STEPS = ("candidate", "prompts", "sample", "score", "queue")


def test_a_project_by_another_path_or_in_another_place_is_not_sampled_again(tmp_path, monkeypatch):
    project = build(tmp_path / "world")

    def made(place) -> dict[str, bytes]:
        return {step: (place / "rounds" / "01" / step / manifest.FILE).read_bytes() for step in STEPS}

    before = made(project)
    monkeypatch.chdir(project.parent)
    align("run", project.name, code=4)
    assert made(project) == before
    shutil.move(project, tmp_path / "elsewhere")
    align("run", tmp_path / "elsewhere", code=4)
    assert made(tmp_path / "elsewhere") == before
    align("set", tmp_path / "elsewhere", "--max-new-tokens", 9, "--again")  # what has changed is done again
    align("run", tmp_path / "elsewhere", code=4)
    now = made(tmp_path / "elsewhere")
    assert now["prompts"] == before["prompts"] and now["sample"] != before["sample"]
