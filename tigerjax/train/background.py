"""Work that a save does in a thread, while training continues."""

import threading
from collections.abc import Callable

SETTLE_S = 60.0  # that a run which ends waits for the last save


class BackgroundSave:
    """The last save of one kind. It ends before the next one begins, and its error is raised by the next `wait`."""

    def __init__(self, name: str, *, daemon: bool):
        """`name` is that of the thread. A process that ends does not wait for a `daemon`."""
        self._name, self._daemon = name, daemon
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begins `work`. Call `wait` before."""
        self._thread = threading.Thread(target=self._run, args=(work,), name=self._name, daemon=self._daemon)
        self._thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # whatever it is, the next wait raises it
            self._error = error

    def wait(self) -> None:
        """Waits until the last save has ended. Raises its error, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def settle(self) -> None:
        """Gives the last save SETTLE_S seconds to end. Raises nothing, since the run ends, perhaps by an error."""
        if self._thread is not None:
            self._thread.join(SETTLE_S)
