"""An output that cannot be written is refused before any work, for every command and every option that names one."""

from pathlib import Path

import pytest

from tigerjax.command import cli, options, outputs
from tigerjax.command.table import COMMANDS
from tigerjax.errors import ConfigError
from tigerjax.files import paths

WRITING = [
    pytest.param(command, option, id=" ".join((*words, option.name)))
    for words, command in COMMANDS.items()
    for option in options.of_command(command)
    if outputs.is_output(option)
]


@pytest.mark.parametrize(("command", "option"), WRITING)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path, command, option):
    own = options.of_command(command)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    is_file = option.name == outputs.JSON or option.is_file
    kinds = {
        tmp_path / ("folder" if is_file else "file"): "is a folder; give a file" if is_file else "is a file; give a",
        tmp_path / "file" / "x": f"because {tmp_path / 'file'} is no folder",
        tmp_path / "file" / "x" / "y": f"because {tmp_path / 'file'} is no folder",
        tmp_path / ("n" * 300) / "y": "give another path",
    }
    for path, words in kinds.items():
        with pytest.raises(ConfigError, match="give") as error:
            outputs.refuse(own, {option.name: path})
        assert words in str(error.value) and str(error.value).startswith(f"{option.name} "), error.value
    for other in own:
        if other.is_path and not outputs.is_output(other):
            path = tmp_path / "same"
            given = {option.name: path, other.name: [path] if other.many else path}
            with pytest.raises(ConfigError, match=f"would replace what {other.name.lstrip('-')} names"):
                outputs.refuse(own, given)
    ending = option.endings[-1] if option.endings else ""
    outputs.refuse(own, {option.name: tmp_path / "new" / "deep" / f"x{ending.upper()}"})
    for wrong in ("x", "x.xlsx", f"x{ending}.zst") if option.endings else ():
        with pytest.raises(ConfigError, match=f"{wrong} must end in .* or {ending}, the forms that are"):
            outputs.refuse(own, {option.name: tmp_path / wrong})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_json_that_is_a_folder_ends_a_command_with_exit_2_and_nothing_written(tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text('{"id": "a", "text": "x"}\n')
    clean = ["data", "clean", "--input", str(source), "--out", str(out)]
    for extra, words in [
        (["--json", str(tmp_path)], "is a folder"),
        (["--json", str(source)], "would replace what input names"),
        (["--json", str(out)], "--json and --out are both"),
    ]:
        for dry in ([], ["--dry-run"]):
            assert cli.main([*clean, *extra, *dry]) == 2
            printed, error = capsys.readouterr()
            assert printed == "" and words in error and len(error.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path, monkeypatch):
    """As root every folder may be; so the question to the system is answered here."""
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(ConfigError, match="may not be written to"):
        outputs.refuse(options.of_command(COMMANDS["data", "clean"]), {"--out": tmp_path / "x"})


def test_paths_in_a_bucket_are_not_looked_at(cloud):
    given = {"--out": paths.of("gs://bucket/x"), "--json": paths.of("gs://bucket/y.json")}
    outputs.refuse(options.of_command(COMMANDS["data", "clean"]), given)
    export, table = options.of_command(COMMANDS["align", "people", "export"]), paths.of("gs://bucket/x.xlsx")
    with pytest.raises(ConfigError, match=r"must end in \.jsonl or \.csv"):
        outputs.refuse(export, {"--out": table})
    assert not cloud.asked


def test_every_output_that_is_a_file_says_how_its_name_ends():
    """JSON of --json is JSON whatever the name is; anything else could be of several forms."""
    files = {option.values[1].name for option in WRITING if option.values[1].is_file}
    assert files == {option.values[1].name for option in WRITING if option.values[1].endings} == {"--out", "--page"}
