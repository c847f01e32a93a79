"""Two commands in one folder of a bucket: one has the lease, the other is refused, and a killed one is taken over."""

import os
import threading
import time

import pytest

from tigerjax.errors import BucketError, ConfigError
from tigerjax.files import lease, paths
from tigerjax.files.lease import Lease
from tigerjax.files.lock import NAME, locked, locked_beside

RUN = "gs://b/run"


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
        first = cloud.objects["b/run/.lock"]
        assert first.data.startswith(b"process %d on" % os.getpid())
        time.sleep(0.5)
        assert cloud.objects["b/run/.lock"].generation > first.generation
    assert "b/run/.lock" not in cloud.objects and not capsys.readouterr().err


@pytest.mark.parametrize("hold", [locked, locked_beside])
def test_the_second_command_is_refused_when_the_first_one_is_alive(cloud, hold):
    with hold(paths.of(RUN)):
        began = time.monotonic()
        with pytest.raises(ConfigError, match=rf"run is in use by process {os.getpid()} on .*; wait until"):
            with hold(paths.of(RUN)):
                raise AssertionError
        assert time.monotonic() - began < lease.LEASE_S
    with hold(paths.of(RUN)):  # the second one took nothing away, and left nothing
        pass
    assert not cloud.objects


def test_a_killed_command_is_named_waited_for_and_taken_over(cloud, capsys):
    left()
    began = time.monotonic()
    with locked(paths.of(RUN)):
        assert time.monotonic() - began >= lease.LEASE_S
        assert b"process 7" not in cloud.objects["b/run/.lock"].data
    assert "waiting 0.6 s at most for process 7 on other" in capsys.readouterr().err


def test_of_many_commands_at_once_exactly_one_gets_the_lease(cloud):
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


def test_a_command_that_was_stopped_too_long_says_that_it_lost_its_lease(cloud, capsys):
    stopped = left("process 8 on slow")
    with locked(paths.of(RUN)):
        stopped.renew()
        said = capsys.readouterr().err
        assert f"process {os.getpid()} on" in said and "has taken over the work here" in said and stopped.lost
        stopped.end()  # which is not its own any more
        assert "b/run/.lock" in cloud.objects


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
