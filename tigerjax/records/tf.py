"""TensorFlow and SeqIO, imported once, without a GPU (which is JAX's) and without the notices that they print.

The import takes several seconds, so only code that needs them calls `start`.
"""

import contextlib
import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from tigerjax.processes.imports import without

# Lines such as "I0000 … cudart_stub.cc:31] Could not find cuda drivers". TensorFlow logs them while it is imported,
# when none of its settings has an effect yet.
NOTICE = re.compile(rb"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} \d\d:\d\d:")


@functools.cache
def start() -> tuple[Any, Any]:
    """(tensorflow, seqio)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Keras, which nothing here uses, imports these three for its own data: more than a second.
    with _without_notices(), without("sklearn", "pandas", "matplotlib"):
        import tensorflow
    with _without_notices():
        import seqio

    # Otherwise TensorFlow takes nearly all memory of a GPU with its first tensor.
    with contextlib.suppress(RuntimeError):  # other code has made a tensor already
        tensorflow.config.set_visible_devices([], "GPU")
    return tensorflow, seqio


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Holds back what is written to standard error, and writes it at the end without the lines that match NOTICE.

    C++ code writes to file descriptor 2 itself, so replacing sys.stderr would not be enough.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            for line in written:
                if not NOTICE.match(line):
                    os.write(2, line)
