"""Files that the processes of a run give to each other, from disk to disk, without the devices.

Each process listens on the address from which it reaches the coordinator, and gives out files of one folder to those
who know its password. The password is drawn anew at every start, and goes through the key-value store of the run. What
is sent is not encrypted.
"""

import hmac
import re
import secrets
import socket
import struct
import threading
from pathlib import Path

from tigerjax.errors import DataError
from tigerjax.files import paths
from tigerjax.processes import hosts

NAME = re.compile(r"(\w[\w-]*/)*\w[\w-]*\.(bin|json)")
"""Files that are given out, all below one folder."""
SILENT_S = 60.0  # without a byte, the other side counts as lost [our choice]
BUFFER_BYTES = 1 << 20
SIZE = struct.Struct(">q")
ABSENT = -1
PASSWORD_BYTES = 32
LONGEST_NAME = 255


class Exchange:
    """The files below one folder of each process of a run. All processes make one together."""

    def __init__(self, folder: Path):
        self._folder, self._password = folder, secrets.token_bytes(PASSWORD_BYTES)
        family, address = hosts.address()
        self._listening = socket.create_server((address, 0), family=family, backlog=16)
        port = self._listening.getsockname()[1]
        self._others = hosts.share("where files are given out", [address, port, self._password.hex()])
        threading.Thread(target=self._listen, name="exchange", daemon=True).start()

    def fetch(self, host: int, name: str, to: Path) -> None:
        """Writes the file `name` of another host to the file `to`, whole or not at all.

        DataError where that host has no such file; OSError where it does not answer.
        """
        address, port, password = self._others[host]
        with socket.create_connection((address, port), SILENT_S) as asked:
            asked.sendall(bytes.fromhex(password) + name.encode().rjust(LONGEST_NAME))
            size = SIZE.unpack(_received(asked, SIZE.size))[0]
            if size == ABSENT:
                raise DataError(f"host {host} has no {name}")
            to.parent.mkdir(parents=True, exist_ok=True)
            buffer = memoryview(bytearray(BUFFER_BYTES))
            with paths.writing(to) as file:
                while size:
                    count = asked.recv_into(buffer[: min(size, BUFFER_BYTES)])
                    if not count:
                        raise ConnectionError(f"host {host} ended while it sent {name}")
                    file.write(buffer[:count])
                    size -= count

    def close(self) -> None:
        """Gives out nothing any more."""
        self._listening.close()

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._answer, args=(caller,), name="exchange", daemon=True).start()

    def _answer(self, caller: socket.socket) -> None:
        with caller:
            caller.settimeout(SILENT_S)
            try:
                said = _received(caller, PASSWORD_BYTES + LONGEST_NAME)
                name = said[PASSWORD_BYTES:].decode().strip()
                if not hmac.compare_digest(said[:PASSWORD_BYTES], self._password) or not NAME.fullmatch(name):
                    return
                try:
                    file = open(self._folder / name, "rb")
                except OSError:
                    caller.sendall(SIZE.pack(ABSENT))
                    return
                with file:
                    caller.sendall(SIZE.pack((self._folder / name).stat().st_size))
                    caller.sendfile(file)
            except (OSError, UnicodeDecodeError):  # whoever asked is told by the end of the connection
                return


def _received(place: socket.socket, count: int) -> bytes:
    """So many bytes. ConnectionError where the other side ends before."""
    got = b""
    while len(got) < count:
        piece = place.recv(count - len(got))
        if not piece:
            raise ConnectionError("the other host ended")
        got += piece
    return got
