"""Stored arrays read a part at a time."""

import numpy as np
from saving import CONFIG

from tigerjax.checkpoint.arrays import create_arrays, open_arrays
from tigerjax.checkpoint.model import content_sha256


def test_the_hash_of_stored_weights_is_that_of_the_weights_where_the_last_chunk_is_short(tmp_path):
    """SmolLM2's table is stored so: 49,152 rows in chunks of 27,777."""
    table = np.arange(20, dtype=np.float32).reshape(5, 4)
    made = create_arrays(tmp_path / "0", {"embed/table": (table.shape, (2, 4))}, np.float32)["embed"]["table"]
    made[0:5] = table
    made.flush()
    stored = open_arrays(tmp_path / "0")
    assert stored["embed"]["table"].chunks == (2, 4)
    assert content_sha256(stored, CONFIG) == content_sha256({"embed": {"table": table}}, CONFIG)
