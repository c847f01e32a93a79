"""Package definition. Exact versions of everything, dependencies of dependencies included, are in requirements.lock."""

import re
from pathlib import Path

from setuptools import find_packages, setup

CORE = ["jax==0.10.2", "flax==0.12.8", "optax==0.2.8", "orbax-checkpoint==0.12.8", "numpy"]
DATA = [
    "array-record",
    "ftfy",
    "gcsfs",  # paths that begin with gs://
    "importlib-resources",  # tensorflow-datasets reads builders with it, and does not ask for it
    "opencc",
    "pyahocorasick",
    "pyarrow",  # Parquet and Arrow files
    "seqio==0.0.20",
    "sentencepiece==0.2.2",
    "tensorflow==2.21.0",
    "tensorflow-datasets==4.9.10",
    "tensorflow-text==2.21.1",
    "xxhash",
    "zstandard",
]
SHOW = ["rich", "tensorboardX", "tyro>=1.0"]

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "tigerjax" / "__init__.py").read_text(encoding="utf-8"))
assert VERSION is not None

setup(
    name="tigerjax",
    version=VERSION[1],
    description="A JAX/TPU-native training stack for TigerBot-style language models",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # configs/ has no __init__.py. It is installed so that the quick start finds its runs without a clone.
    packages=[*find_packages(include=["tigerjax", "tigerjax.*", "data_mixtures", "data_mixtures.*"]), "configs"],
    package_data={
        "data_mixtures": ["embedded/*"],
        "tigerjax": ["py.typed"],
        "tigerjax.evaluate": ["tasks/*.yaml"],
    },
    install_requires=CORE + DATA + SHOW,
    extras_require={
        "tpu": ["libtpu==0.0.42.1"],
        "gpu": ["jax[cuda13]==0.10.2"],
        "beam": ["apache-beam==2.77.0", "google-crc32c"],
        "eval": ["accelerate>=1.0", "lm-eval==0.4.13"],
        "label": ["label-studio-sdk"],
        "bench": ["datasets", "datasketch", "matplotlib"],  # peers, beside those of hf, and plots
        "hf": ["torch==2.13.0", "transformers==5.23.0"],
        "dev": [
            "hypothesis",
            "kubernetes-validate",
            "mkdocs==1.6.1",
            "mypy",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "safetensors",
            "datasketch",
        ],
    },
    entry_points={"console_scripts": ["tigerjax = tigerjax.command.cli:main"]},
)
