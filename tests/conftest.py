"""Set before JAX is imported: 8 fake CPU devices, full-precision matmuls, a compilation cache, quiet TensorFlow."""

import os
import tempfile
from pathlib import Path

import pytest
from bucket import served

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
)
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most of the suite's time is XLA compiling the same tiny functions: the workers share what is compiled.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A stand-in for Cloud Storage, empty; nothing of a test may end in a folder of the disk named gs:."""
    monkeypatch.chdir(tmp_path)
    with served() as bucket:
        yield bucket
    assert not list(tmp_path.glob("gs:*"))


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder of temporary files, empty; copies of a bucket's objects go into another one of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"
