"""Two commands in one folder of a bucket: one has the lease, the other is refused, and a killed one is taken over."""

import os
import threading
import time
from pathlib import Path

import pytest

from tigerjax.errors import BucketError, ConfigError, FolderLost
from tigerjax.files import lease, manifest, paths
from tigerjax.files.lease import Lease
from tigerjax.files.lock import NAME, locked, locked_beside
from tigerjax.files.log import Log

RUN = "gs://leases/run"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in (("LEASE_S", 0.6), ("RENEW_S", 0.1), ("LOOK_S", 0.05)):
        monkeypatch.setattr(lease, name, seconds)


def left(owner="process 7 on other, which began at noon"):
    """The lease of a command that was killed."""
    killed = Lease(paths.of(RUN) / NAME, paths.of(RUN), owner)
    killed.take()
    return killed


def test_a_command_that_holds_a_lease_renews_it_and_removes_it_at_the_end(cloud, capsys):
    with locked(paths.of(RUN)):
        first = cloud.objects["leases/run/.lock"]
        assert first.data.startswith(b"process %d on" % os.getpid())
        while cloud.objects["leases/run/.lock"].generation == first.generation:  # to the end of a test's time
            time.sleep(0.05)
    assert "leases/run/.lock" not in cloud.objects and not capsys.readouterr().err


@pytest.mark.parametrize("hold", [locked, locked_beside])
def test_the_second_command_is_refused_when_the_first_one_is_alive(cloud, hold, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_S", 3600.0)  # a lease that is renewed is not waited for
    with hold(paths.of(RUN)):
        with pytest.raises(ConfigError, match=rf"run is in use by process {os.getpid()} on .*; wait until"):
            with hold(paths.of(RUN)):
                raise AssertionError
    with hold(paths.of(RUN)):  # the second one took nothing away, and left nothing
        pass
    assert not cloud.objects


def test_a_killed_command_is_named_waited_for_and_taken_over(cloud, capsys):
    left()
    began = time.monotonic()
    with locked(paths.of(RUN)):
        assert time.monotonic() - began >= lease.LEASE_S
        assert b"process 7 on" not in cloud.objects["leases/run/.lock"].data
    assert "waiting 0.6 s at most for process 7 on other" in capsys.readouterr().err


def test_of_many_commands_at_once_exactly_one_gets_the_lease(cloud, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_S", 3.0)  # the thread that renews may have to wait for a core
    left()  # which all of them want to take over
    got, refused = [], []

    def command():
        try:
            with locked(paths.of(RUN)):
                got.append(1)
                time.sleep(1.0)
        except ConfigError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=command) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 3 and all("in use by process" in line for line in refused)


WRITES = {
    "a file": lambda place: paths.write_text(place / "a.txt", "2"),
    "a log": lambda place: Log(place / "a.txt", ["2"]).close(),
    "a folder that is begun": lambda place: paths.begin(place, b"x", commit="a.txt"),
    "an upload": lambda place: paths.upload(Path(__file__).parent, place, last="test_lease.py"),
    "a folder that is removed": lambda place: paths.remove(place, commit="a.txt"),
    "a folder that is emptied": paths.clear,
    "a folder that is renamed": lambda place: paths.rename(paths.of("gs://leases/other"), place / "new", commit="x"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_command_that_was_stopped_too_long_writes_nothing_more_and_ends(cloud, monkeypatch, write):
    monkeypatch.setattr(lease, "RENEW_S", 60.0)  # the thread that renews was stopped, too
    with pytest.raises(FolderLost, match=r"/run: process 8 on fast .*, has taken over .*for 0\.6 s; this one ends"):
        with locked(paths.of(RUN)):
            paths.write_text(paths.of(RUN) / "a.txt", "1")
            left("process 8 on fast")
            before = {name: each.generation for name, each in cloud.objects.items()}
            write(paths.of(RUN))
            raise AssertionError
    assert {name: each.generation for name, each in cloud.objects.items()} == before
    assert cloud.objects["leases/run/a.txt"].data == b"1"


def test_a_command_that_lost_its_folder_and_writes_no_more_says_so_at_its_end(cloud, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 4.0)  # later than the other takes it over, on a loaded machine too
    with pytest.raises(FolderLost, match=r"process 8 on fast .*, has taken over the work here"):
        with lease.leased(paths.of(RUN) / NAME, paths.of(RUN), "process 7 on slow") as mine:
            left("process 8 on fast")
            while not mine.lost:  # to the end of a test's time
                time.sleep(0.05)
    assert "leases/run/.lock" in cloud.objects  # the other's


def test_a_stage_that_lost_its_folder_puts_nothing_there(cloud, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 60.0)
    with pytest.raises(FolderLost), manifest.stage(RUN, name="copy", config={}, inputs=[]) as run:
        (run.tmp / "a.txt").write_text("a")
        killed = Lease(paths.of(f"{RUN}.lock"), paths.of(RUN), "process 8 on fast")
        killed.take()
    assert list(cloud.objects) == ["leases/run.lock"]


def test_a_command_that_was_stopped_shortly_renews_its_lease_and_goes_on(cloud, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 60.0)
    with locked(paths.of(RUN)):
        time.sleep(0.4)
        before = cloud.objects["leases/run/.lock"].generation
        paths.write_text(paths.of(RUN) / "a.txt", "1")
        paths.write_text(paths.of(RUN) / "b.txt", "1")
        assert cloud.objects["leases/run/.lock"].generation > before
    assert set(cloud.objects) == {"leases/run/a.txt", "leases/run/b.txt"}


def test_a_request_that_is_repeated_after_a_lost_answer_is_still_ours(cloud):
    mine = left()
    mine._generation -= 1  # as if the last answer had not come
    mine.renew()
    assert not mine.lost
    mine.end()
    assert not cloud.objects


def test_a_bucket_that_does_not_answer_for_a_while_loses_no_lease(cloud, capsys):
    with locked(paths.of(RUN)):
        cloud.refuse = lambda method, name: 400 if name.endswith(NAME) else None
        time.sleep(0.3)
        cloud.refuse = lambda method, name: None
        time.sleep(0.3)
    assert not cloud.objects and not capsys.readouterr().err


def test_a_bucket_that_refuses_is_no_lock_of_another_command(cloud):
    cloud.refuse = lambda method, name: 403
    with pytest.raises(BucketError), paths.bucket_errors(), locked(paths.of(RUN)):
        raise AssertionError
