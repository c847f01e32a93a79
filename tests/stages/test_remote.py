"""What a task on another machine looks at before it works, and that one which is late changes nothing."""

import functools
import threading

import pytest
import tasks

from tigerjax.errors import ConfigError
from tigerjax.stages import remote


@pytest.fixture
def place(tmp_path):
    return remote.opened(tmp_path / "work" / "results" / "scan")


def test_a_task_gives_its_result_in_a_form_that_travels(place):
    assert remote.answer(remote.task(place, tasks.squared, 3)) == {"squared": 9}


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"code": {"source": "abc"}}, r"worker .* has source \w+ instead of abc; install the same tigerjax"),
        ({"code": {"xxhash": "0.1"}}, r"has xxhash [\d.]+ instead of 0.1; install"),
        ({"code": {"no-such": "1"}}, r"has no-such none instead of 1; install"),
        ({"mark": "of another folder"}, r"does not see .*results/scan; give an --out on a disk that all workers share"),
        ({"folder": "/nowhere"}, r"does not see /nowhere; give an --out"),
        ({"current": "/nowhere"}, r"has no folder /nowhere; start the command in a folder that all workers share"),
    ],
)
def test_a_worker_that_runs_or_sees_something_else_is_refused(place, other, says):
    with pytest.raises(ConfigError, match=says):
        remote.answer(remote.task(place._replace(**other), tasks.squared, 3))


def test_a_full_disk_is_told_with_its_worker_and_file(place):
    with pytest.raises(OSError, match="No space left") as error:
        remote.answer(remote.task(place, tasks.full, 1))
    assert error.value.filename.endswith(":/data/x")


def test_a_task_that_is_late_replaces_no_file_of_a_later_step(place, tmp_path):
    (tmp_path / "out").write_bytes(b"of a later step")
    met = []

    def run():
        try:
            remote.task(place, functools.partial(tasks.late, tmp_path), 0)
        except FileNotFoundError as error:
            met.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not (tmp_path / "begun").exists():
        pass
    remote.closed(place)
    (tmp_path / "ended").touch()
    thread.join(30)
    assert len(met) == 1 and (tmp_path / "out").read_bytes() == b"of a later step"
    assert not list(tmp_path.rglob("*.part"))


def test_two_tries_of_a_task_write_side_by_side(place, tmp_path):
    first = threading.Thread(target=remote.task, args=(place, functools.partial(tasks.late, tmp_path), 0))
    first.start()
    while not (tmp_path / "begun").exists():
        pass
    second = threading.Thread(target=remote.task, args=(place, functools.partial(tasks.late, tmp_path), 0))
    second.start()
    (tmp_path / "ended").touch()
    first.join(30)
    second.join(30)
    assert (tmp_path / "out").read_bytes() == b"late"


def test_results_come_in_the_order_of_the_items_and_the_folder_of_the_step_is_gone_then(tmp_path):
    folder = tmp_path / "work" / "results" / "scan"
    seen = []

    def run(place):
        seen.append(folder.is_dir())
        return [remote.task(place, tasks.squared, n) for n in (3, 2)]

    assert remote.each([3, 2], folder, run) == [{"squared": 9}, {"squared": 4}]
    assert seen == [True] and not folder.exists()
    assert remote.each([], folder, run) == [] and seen == [True]


def test_the_folder_of_a_step_goes_also_where_its_workers_fail(tmp_path):
    def run(place):
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        remote.each([1], tmp_path / "scan", run)
    assert list(tmp_path.iterdir()) == []
