"""The process in which a program that a model wrote is run, shut in. `execute` starts it; it imports nothing of ours.

Two of them run for one program and know nothing of each other: the *candidate* holds the program, the *tester* the
benchmark's test. What they say to each other is in `calls`, which the child runs as its own code.

Each has namespaces of its own (Linux, user_namespaces(7)): no network, no process of others in sight, and a root folder
with nothing but Python and the system's libraries, read-only. When its first process ends, the kernel ends all others.
"""

import ctypes
import json
import os
import resource
import runpy
import signal
import sys
from typing import Any, NoReturn

SHUT, CANNOT = 42, 44
"""Exit codes: a process was shut in; this machine cannot shut one in."""
CALLS = "calls.py"
"""In the folder of this file. It is not imported: Python runs this file without the package."""
NOBODY = 65534
NEW_NAMESPACES, NEW_USERS = 0x20000 | 0x4000000 | 0x8000000 | 0x20000000 | 0x40000000, 0x10000000
"""Of unshare(2): mounts, host name, messages, processes, network; and users."""
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE, MS_RELATIME = 1, 32, 4096, 8192, 16384, 1 << 18, 1 << 21
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
CAPABILITY_VERSION_3 = 0x20080522
ROOT = "/proc"  # where the new root is made: it is on every Linux, and nothing that is needed lies below it


class Kernel:
    """The calls of libc that Python does not have; an OSError where one is refused."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def call(self, name: str, *args: Any) -> None:
        if getattr(self._libc, name)(*args) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    def prctl(self, option: int, value: int) -> None:
        self.call("prctl", option, value, 0, 0, 0)

    def mount(self, source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
        texts = [None if t is None else t.encode() for t in (source, target, kind, data)]
        self.call("mount", *texts[:3], ctypes.c_ulong(flags), texts[3])

    def leave_namespaces(self) -> None:
        """New namespaces for the children of this process. An ordinary user gets one of users too, to be root in it."""
        if os.geteuid() == 0:
            self.call("unshare", NEW_NAMESPACES)
            return
        user, group = os.geteuid(), os.getegid()
        self.call("unshare", NEW_NAMESPACES | NEW_USERS)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)

    def shut_in(self, as_root: bool) -> None:
        """A root folder that holds Python and the system's libraries only; then no capability is left. Root becomes
        nobody, because the kernel limits no process of root.

        Raises OSError where the system does not let it be built.
        """
        self.mount("none", "/", None, MS_REC | MS_PRIVATE)
        self.mount("tmpfs", ROOT, "tmpfs", 6, "size=16m,nr_inodes=1k,mode=755")  # 6: no set-uid, no devices
        for path in ("/bin", "/lib", "/lib64"):
            if os.path.islink(path):
                os.symlink(os.readlink(path), ROOT + path)
        for path in [*_python(), "/dev/null", "/dev/urandom", "/etc/ld.so.cache"]:
            if os.path.exists(path):
                self._bind(path)
        os.makedirs(ROOT + "/tmp", exist_ok=True)  # Python itself may lie below /tmp
        os.chmod(ROOT + "/tmp", 0o777)
        os.chdir(ROOT)
        self.mount(ROOT, "/", None, MS_MOVE)
        os.chroot(".")
        os.chdir("/tmp")
        self.prctl(PR_SET_NO_NEW_PRIVS, 1)
        if as_root:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            for path in _python():
                if not os.access(path, os.R_OK | os.X_OK):
                    raise OSError(f"root's programs run as user {NOBODY}, who cannot read {path}; be another user")
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        self.call("capset", header, (ctypes.c_uint32 * 6)())

    def _bind(self, path: str) -> None:
        target = ROOT + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "w"):
                pass
        self.mount(path, target, None, MS_BIND | MS_REC)
        has = os.statvfs(target).f_flag  # all of these flags must be given again: the kernel refuses to drop one
        same = has & (2 | 4 | 8 | 1024 | 2048) | (MS_RELATIME if has & 4096 else 0)
        self.mount("none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | same)


def _python() -> list[str]:
    """The folders that a Python program reads, none inside another."""
    found = [os.path.realpath(p) for p in (sys.base_prefix, sys.prefix, "/usr")]
    found += [p for p in ("/lib", "/lib64") if os.path.isdir(p) and not os.path.islink(p)]
    found = sorted(set(found))
    return [p for p in found if not any(p != o and p.startswith(o.rstrip("/") + "/") for o in found)]


def limit(limits: dict[str, int]) -> None:
    """Sets limits, {name of resource.RLIMIT_NAME: most}, for this process and all that it starts."""
    for name, most in limits.items():
        which = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))


def _end(child: int, confined: bool) -> None:
    """Ends the child, and with it all that it has started: by the kernel, or one by one where nothing shuts them in."""
    while True:
        below = [child] if confined else [child, *_orphans()]
        for process in below:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _orphans() -> list[int]:
    """The processes whose parent is this one; those left by a child that has ended are given to it."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else []):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        if parent == os.getpid():
            found.append(int(name))
    return found


def main() -> int:
    """argv[1] is {role, confined, limits, read, write} as JSON; standard input is the role's job as JSON."""
    how = json.loads(sys.argv[1])
    job = json.load(sys.stdin)
    linux, confined = sys.platform == "linux", how["confined"]
    kernel = Kernel()
    try:
        if confined and not linux:
            raise OSError(f"{sys.platform} has no namespaces; Linux has")
        if confined:
            how["root"] = os.geteuid() == 0
            kernel.leave_namespaces()
        if linux:
            kernel.prctl(PR_SET_CHILD_SUBREAPER, 1)
            kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        child = os.fork()
    except OSError as error:
        print(error, file=sys.stderr)
        return CANNOT
    if child == 0:
        _inside(how, job, kernel)
    for pipe in (how["read"], how["write"]):
        os.close(pipe)

    def stop(*_: Any) -> None:
        _end(child, confined)
        os._exit(1)

    signal.signal(signal.SIGTERM, stop)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    _end(child, confined)
    return status if status >= 0 else 1


def _inside(how: dict[str, Any], job: dict[str, str], kernel: Kernel) -> NoReturn:
    """The child: shut in and limited, then its role."""
    roles = runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(__file__)), CALLS))  # out of reach afterwards
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1):
            os.dup2(nothing, stream)
        if how["confined"]:
            kernel.shut_in(how["root"])
        if sys.platform == "linux":
            kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        limit(how["limits"])
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(CANNOT)
    os.dup2(nothing, 2)
    sys.set_int_max_str_digits(0)
    try:
        if how["role"] == "probe":
            os._exit(SHUT)
        roles[how["role"]](how["read"], how["write"], job)
    finally:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
