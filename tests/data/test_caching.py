"""Several processes make the rows of one mixture: they divide the sources, and nobody makes one twice."""

import threading

import pytest

from tigerjax.data import caching, mixture
from tigerjax.data.caching import Caching
from tigerjax.files import lock, manifest
from tigerjax.processes import hosts

L = 64
SOURCES = ("a", "b", "c", "d", "e")


@pytest.fixture
def tasks(work):
    files = {name: mixture.Source(work / "sft" / "sft.jsonl") for name in SOURCES}
    for name, source in files.items():
        mixture.sft(f"cached_{name}", tokenizer=work / "tokenizer", examples=source)
    return [mixture.get_mixture(f"cached_{name}").tasks[0] for name in SOURCES]


class Hosts:
    """Threads as the hosts of a run."""

    def __init__(self, count, monkeypatch):
        self.count, self.own = count, threading.local()
        self.barrier, self.values = threading.Barrier(count), {}
        monkeypatch.setattr(hosts, "place", lambda: (self.own.number, count))
        monkeypatch.setattr(hosts, "is_writer", lambda: self.own.number == 0)
        monkeypatch.setattr(hosts, "share", self.share)
        monkeypatch.setattr(hosts, "barrier", lambda name: self.barrier.wait(60))

    def share(self, name, value):
        self.values[name, self.own.number] = value
        self.barrier.wait(60)
        return [self.values[name, host] for host in range(self.count)]

    def run(self, work):
        failed = []

        def one(number):
            self.own.number = number
            try:
                work(number)
            except BaseException as error:
                self.barrier.abort()
                failed.append(error)

        threads = [threading.Thread(target=one, args=(n,)) for n in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]


@pytest.fixture
def made(monkeypatch):
    """(thread, source) of all rows that are made."""
    found, make = [], caching.task_rows
    monkeypatch.setattr(
        caching,
        "task_rows",
        lambda task, length: found.append((threading.current_thread().name, task.name)) or make(task, length),
    )
    return found


@pytest.mark.parametrize("shared", [True, False])
def test_the_hosts_of_a_run_divide_the_sources_of_a_shared_folder(tasks, work, tmp_path, monkeypatch, made, shared):
    run = Hosts(2, monkeypatch)

    def one(number):
        folder = tmp_path / ("rows" if shared else f"rows{number}")
        caching.by_hosts(tasks, Caching(tokenizer=work / "tokenizer", cache_dir=folder, seq_len=L))

    run.run(one)
    times = 1 if shared else 2
    assert sorted(name for _, name in made) == sorted([task.name for task in tasks] * times)
    if shared:
        assert len({thread for thread, _ in made}) == 2
    for folder in tmp_path.iterdir():
        assert all(manifest.read(folder / task.name) for task in tasks)


def test_a_host_says_what_other_hosts_dropped(tasks, work, tmp_path, monkeypatch, capsys):
    run = Hosts(2, monkeypatch)
    run.run(lambda _: caching.by_hosts(tasks, Caching(tokenizer=work / "tokenizer", cache_dir=tmp_path, seq_len=24)))
    told = [line for line in capsys.readouterr().err.splitlines() if "are in no row" in line]
    assert {task.name for task in tasks} <= {word.rstrip(":") for line in told for word in line.split()}


def test_a_source_that_another_process_makes_is_waited_for_last(tasks, work, tmp_path, monkeypatch, made, capsys):
    monkeypatch.setattr(caching, "LOOK_S", 0.05)
    monkeypatch.setattr(lock, "WAIT_S", 0.0)
    how = Caching(tokenizer=work / "tokenizer", cache_dir=tmp_path, seq_len=L)
    held = tmp_path / tasks[0].name
    with lock.locked_beside(held):
        thread = threading.Thread(target=caching.cache, args=(tasks, how))
        thread.start()
        for task in tasks[1:]:
            while not manifest.read(tmp_path / task.name):
                assert thread.is_alive()
        assert thread.is_alive() and not held.exists()
    thread.join()
    assert [name for _, name in made] == [*(task.name for task in tasks[1:]), tasks[0].name]
    assert f"source {tasks[0].name} is being made: {held} is in use by process" in capsys.readouterr().err
    caching.cache(tasks, how)
    assert len(made) == len(tasks), "what is there is not made again"
