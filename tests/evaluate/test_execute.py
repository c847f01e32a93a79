"""Programs that a model writes: none can make itself pass, and none reaches out of its jail."""

import os
import signal
import socket
import sys
import time

import pytest

from tigerjax.errors import ConfigError
from tigerjax.evaluate import execute, suite

PROMPT = 'def double(x):\n    """Twice x."""\n'
TEST = "def check(f):\n    assert f(2) == 4\n    assert f([1]) == [1, 1]\n"


def passes(body, test=TEST, prompt=PROMPT, **how):
    program = execute.GeneratedCode(prompt=prompt, text=prompt + body, entry_point="double", test=test)
    return execute.passes(program, **how)


@pytest.fixture
def loose(monkeypatch):
    """A machine that cannot shut programs in, and a user who accepts it."""
    monkeypatch.setattr(execute, "confined", lambda allow: False)


FORGERIES = {
    "exit": "    exit()\n",
    "sys.exit": "    import sys; sys.exit(0)\n",
    "SystemExit": "    raise SystemExit\n",
    "os._exit": "    import os; os._exit(0)\n",
    "exit code of the jail": "    import os; os._exit(42)\n",
    "a function of the test's process": "    return exec\n",
    "an iterator without end": "    while True: yield 4\n",
    "atexit": "    import atexit, os; atexit.register(os._exit, 42); raise ValueError\n",
    "thread": "    import threading, os; threading.Timer(0, os._exit, [42]).start(); import time; time.sleep(1)\n",
    "equal to all": "    class E:\n        __eq__ = lambda s, o: True\n    return E()\n",
    "equal list": "    class E(list):\n        __eq__ = lambda s, o: True\n    return E()\n",
    "patched builtins": "    import builtins; builtins.AssertionError = Exception; builtins.check = print\n",
    "patched json": "    import json; json.dumps = lambda m: '{}'\n",
    "messages of its own": "    import os\n    for n in range(3, 20):\n"
    "        try: os.write(n, b'{\"ready\": true}\\n' * 9)\n"
    "        except OSError: pass\n",
    "frames": "    import sys\n    f = sys._getframe()\n"
    "    while f:\n        f.f_globals['PASSED'] = 1; f = f.f_back\n",
    "signal to the first process": "    import os; os.kill(1, 9); os.kill(-1, 9)\n",
    "it prints": "    print('passed')\n",
    "recursion": "    return double(x)\n",
    "memory": "    return [0] * 10**10\n",
}


@pytest.mark.parametrize("body", FORGERIES.values(), ids=FORGERIES)
def test_no_program_passes_by_anything_but_its_answers(body):
    assert not passes(body)


def test_a_right_program_passes_shut_in_and_not(loose):
    assert passes("    return x * 2\n")


RIGHT = {
    "shut in": ("    return x * 2\n", TEST, PROMPT),
    "imports": ("    import math, collections, re; return x * 2\n", TEST, PROMPT),
    "helper of the prompt": (
        "    return x * 2\n",
        "def check(f):\n    assert half(f(2)) == 2\n",
        "def half(x):\n    return x // 2\n\n" + PROMPT,
    ),
    "prompt without a body": ("    return x * 2\n", TEST, "def double(x):\n"),
    "in place": ("    x.append(2)\n", "def check(f):\n    a = [1]; f(a); assert a == [1, 2]\n", PROMPT),
    "exception": (
        "    raise KeyError('x')\n",
        "def check(f):\n    try: f(1)\n    except KeyError: return\n    assert 0\n",
        PROMPT,
    ),
    "every plain type": (
        "    return x\n",
        "def check(f):\n    for v in (None, True, 1, 1.5, 'é', b'a', 1j, (1, (2,)), {1}, frozenset([2]), {1: (2,)},"
        " 10**5000):\n"
        "        assert f(v) == v and type(f(v)) is type(v)\n",
        PROMPT,
    ),
    "by its name": ("    return x * 2\n", "def check(f):\n    assert double(x=2) == 4\n", PROMPT),
}


@pytest.mark.parametrize(("body", "test", "prompt"), RIGHT.values(), ids=RIGHT)
def test_what_published_tests_do_with_a_function_works(body, test, prompt):
    assert passes(body, test, prompt)


def test_a_test_that_does_not_come_to_its_end_is_not_passed():
    assert not passes("    return 4\n", "import sys\ndef check(f):\n    sys.exit(0)\n")
    assert not passes("    return 4\n", "import os\ndef check(f):\n    f(2); os._exit(0)\n")


OBJECTS = "import dataclasses\n\n@dataclasses.dataclass\nclass Point:\n    x: int\n\n" + PROMPT
FUNCTIONS = {
    "a lambda": ("    return x(2)\n", "def check(f):\n    assert f(lambda n: n * 2) == 4\n"),
    "a function of the test": (
        "    return sorted(x, key=lambda n: -n)\n",
        "def check(f):\n    assert f(sorted([1, 2])) == [2, 1]\n",
    ),
    "a builtin": ("    return x([1, 2])\n", "def check(f):\n    assert f(sum) == 3 and f(len) == 2\n"),
    "a type": ("    return [x('2'), x is int]\n", "def check(f):\n    assert f(int) == [2, True]\n"),
    "functions in a list": ("    return [g(1) for g in x]\n", "def check(f):\n    assert f([abs, str]) == [1, '1']\n"),
    "a function that raises": (
        "    try: x()\n    except ValueError: return 4\n",
        "def g(): raise ValueError\ndef check(f):\n    assert f(g) == 4\n",
    ),
    "a function comes back": ("    return lambda y: x + y\n", "def check(f):\n    assert f(1)(2) == 3\n"),
    "calls within calls": (
        "    return x(lambda n: n + 1)\n",
        "def check(f):\n    assert f(lambda g: g(g(1))) == 3\n",
    ),
    "a generator": ("    yield from range(x)\n", "def check(f):\n    assert list(f(3)) == [0, 1, 2]\n"),
    "map and range": (
        "    return map(str, range(x)), range(x), {1: 2}.keys()\n",
        "def check(f):\n    m, r, k = f(2)\n    assert list(m) == ['0', '1'] and r == range(2) and list(k) == [1]\n",
    ),
    "exact numbers": (
        "    return x / 2\n",
        "from fractions import Fraction as F\nfrom decimal import Decimal as D\n"
        "def check(f):\n    assert f(F(1, 3)) == F(1, 6) and f(D('1.5')) == D('0.75')\n",
    ),
}


@pytest.mark.parametrize(("body", "test"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_test_may_hand_over_functions_and_get_some(body, test):
    assert passes(body, test)
    assert not passes("    return 5\n", test)


@pytest.mark.parametrize("body", ["    return Point(1)\n", "    return 5\n"])
def test_a_test_that_hands_over_an_object_is_not_judged_and_says_so(body):
    with pytest.raises(execute.NotJudged, match="hands over an object") as caught:
        passes(body, "def check(f):\n    assert f(Point(1)) == Point(1)\n", OBJECTS)
    assert caught.value.test


@pytest.mark.parametrize("test", ["f(1) == Point(1)", "f(1).x == 1", "Point(1) == f(1)", "f(1)[0] == 1", "len(f(1))"])
def test_a_returned_object_that_the_test_looks_into_is_not_judged_and_says_so(test):
    with pytest.raises(execute.NotJudged, match="looks into an object") as caught:
        passes("    return Point(1)\n", f"def check(f):\n    assert {test}\n", OBJECTS)
    assert not caught.value.test
    assert not passes("    return Point(1)\n", "def check(f):\n    assert f(1) == 1\n", OBJECTS)


def test_programs_that_are_not_judged_are_counted_by_name():
    asked = [
        {"id": "a", "group": "", "right": True, "answer": ""},
        {"id": "b", "group": "", "right": False, "answer": "", suite.TEST: "why"},
        {"id": "c", "group": "", "right": False, "answer": "", suite.OBJECT: "why"},
    ]
    figures = suite.count(asked)
    assert (figures["n"], figures[suite.TEST], figures[suite.OBJECT]) == (3, ["b"], ["c"])
    whole = suite.summary({"tasks": {"humaneval": figures}}, {"humaneval": "1 of its tests"}, suite.EvaluationConfig())
    assert not whole["complete"] and whole["mean_en"] is None


def answers(body):
    """Whether the function's body, which gives 4 where something is out of reach, does so."""
    return passes(body, "def check(f):\n    assert f(2) == 4\n")


def test_a_program_sees_no_network_no_files_and_no_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    (tmp_path / "key").write_text("s3cret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        out = f"    import socket\n    try: socket.create_connection(('127.0.0.1', {port}), 2)\n"
        assert answers(out + "    except OSError: return 4\n")
    assert answers(f"    import os; return 4 if not os.path.exists({str(tmp_path / 'key')!r}) else 5\n")
    assert answers("    import os; return 4 if 'SECRET_TOKEN' not in os.environ else 5\n")
    # The Python that runs the tests may itself lie below /tmp.
    python = [path.split("/")[2] for path in (sys.prefix, sys.base_prefix) if path.startswith("/tmp/")]
    assert answers(f"    import os; return 4 if set(os.listdir('/tmp')) <= set({python!r}) else 5\n")
    read = f"    try: return len(open('/proc/{os.getpid()}/environ').read())\n    except OSError: return 4\n"
    assert answers(read)
    write = "    import sys\n    try: open(sys.prefix + '/planted', 'w')\n    except OSError: return 4\n"
    assert answers(write)


def test_a_program_has_limits_of_processes_memory_time_and_files(monkeypatch):
    monkeypatch.setattr(execute, "CPU_SECONDS", 1)
    bomb = (
        "    import os, time\n    n = 0\n    while True:\n        try:\n            if os.fork() == 0: time.sleep(30)\n"
    )
    assert answers(bomb + "        except OSError: return 4 if n < 20 else 5\n        n += 1\n")
    assert answers("    try: bytearray(3 * 10**9)\n    except MemoryError: return 4\n")
    assert not answers("    while True: pass\n")
    large = "    import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n    with open('/tmp/a', 'wb') as f:\n"
    assert answers(large + "        try: f.write(bytes(2 * 10**6)); f.flush()\n        except OSError: return 4\n")


DAEMON = (
    "    import os, time\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
    "            os.execv('/usr/bin/sleep', [{name!r}, '300'])\n        os._exit(0)\n"
    "    time.sleep(0.5)\n    return x * 2\n"
)


def running(name):
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{number}/cmdline", "rb") as file:
                found += [int(number)] * (name.encode() in file.read().split(b"\0"))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("shut_in", [True, False])
def test_daemons_end_with_their_program(monkeypatch, shut_in):
    monkeypatch.setattr(execute, "confined", lambda allow: shut_in)
    name = f"daemon-{os.getpid()}-{shut_in}"
    try:
        assert passes(DAEMON.format(name=name))
        deadline = time.monotonic() + 5
        while running(name) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not running(name)
    finally:
        for process in running(name):
            os.kill(process, signal.SIGKILL)


def test_a_machine_that_cannot_shut_programs_in_refuses_unless_that_is_accepted(monkeypatch):
    monkeypatch.setattr(execute.jail, "__file__", os.devnull)  # a jail that never says that it is shut
    execute.confined.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"cannot shut programs in .*--allow-unconfined-code"):
            execute.confined(False)
        assert execute.confined(True) is False
    finally:
        execute.confined.cache_clear()
