"""The thread that reads batches ahead: it ends when it is told to, whatever is left of the run."""

from tiny_run import TinyLoader, tiny_config

from tigerjax.mesh import host_rows, run_mesh
from tigerjax.train.feed import Feed


def test_a_feed_that_is_closed_reads_no_more_of_a_long_run():
    """Ctrl-C in a run of many steps would else read all of their batches before the program ends."""
    mesh, loader = run_mesh(tiny_config()), TinyLoader()
    rows = len(next(TinyLoader()).tokens_BT)
    feed = Feed(loader, mesh, rows=host_rows(mesh, rows), batch_rows=rows, tokens=lambda _: 1, batches=10**9, ahead=2)
    assert feed.get(lambda: False) is not None
    feed.close()
    assert loader.index <= 5  # one was taken, two wait, one was in hand
