"""TensorFlow and SeqIO, started once: off the GPU, which is JAX's, and without the notices of their start.

Importing them takes several seconds, so it happens where rows are made and nowhere else.
"""

import contextlib
import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

# Logged at import, before any setting of TensorFlow's counts: "I0000 … cudart_stub.cc:31] Could not find cuda drivers".
NOTICE = re.compile(rb"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} \d\d:\d\d:")


@functools.cache
def start() -> tuple[Any, Any]:
    """(tensorflow, seqio)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _without_notices():
        import seqio
        import tensorflow

    # TensorFlow would take nearly all memory of a GPU when it makes its first tensor.
    with contextlib.suppress(RuntimeError):  # somebody made one before us
        tensorflow.config.set_visible_devices([], "GPU")
    return tensorflow, seqio


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """What C++ code writes to file descriptor 2 meanwhile is written at the end, without lines that match NOTICE."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            for line in said:
                if not NOTICE.match(line):
                    os.write(2, line)
