# Everything a newcomer types. Each target makes .venv first when it is not there or out of date.
# Another interpreter: make PYTHON=python3.12 test

# The first of these that runs. A name on the PATH is not enough: pyenv puts a python3.13 there that only prints an error.
ifndef PYTHON
PYTHON := $(or $(shell for name in python3.13 python3.12 python3; do "$$name" -c "" 2>/dev/null && echo "$$name" && break; done),python3)
endif
VENV   := .venv
BIN    := $(VENV)/bin
UV     := uv

# Python 3.11 has a lock of its own, because newer versions of JAX do not support it. The peers (torch, transformers) have
# a third lock, and torch two: its CPU build, which is taken where pip finds that file, and PyPI's. With 3.11 the peers are
# installed too. With 3.12 and 3.13 pip gets a CUDA build of torch, several GB, so there they come only on request.
version := $(shell "$(PYTHON)" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)
ifneq ($(filter 3.11.%,$(version)),)
LOCK  := requirements-py311.lock
PEERS ?= 1
else
LOCK  := requirements-py312.lock
PEERS ?=
endif

# The names of these two files say what is installed: they hold the checksum of the lock, of setup.py, of the
# interpreter's version and of this folder's path (console scripts hold absolute paths, so a moved checkout installs again).
key     := $(shell { cat $(LOCK) setup.py; echo "$(version) $(CURDIR)"; } | cksum | tr ' ' '-')
stamp   := $(VENV)/installed-$(key)
peers   := $(VENV)/peers-$(key)-$(shell cat requirements-peers.lock requirements-torch*.lock | cksum | tr ' ' '-')

# Every file that pip takes must have a hash that the lock lists. A lock names all dependencies of its packages, so pip
# need not look for more (and would refuse `typepy[datetime]` beside the lock's `typepy`, which pip 23 takes for another).
install := $(BIN)/python -m pip --disable-pip-version-check install --require-hashes --no-deps

# XLA on a CPU takes and returns its buffers at every step; in huge pages that costs less (glibc 2.35 or newer,
# without effect elsewhere). Must stand in the environment before Python starts.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# How long `make fuzz` damages files, and at how many points of each stage it then kills it.
MINUTES ?= 60
FAULT_POINTS ?= 20

# Options of `make drill-image`.
HOW ?=

.PHONY: help venv peers quickstart test fuzz test-slow lint format docs bench replicate drill drill-faults drill-slurm drill-image lock clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo "  make PYTHON=python3.12 TARGET   the same with another interpreter: 3.11, 3.12 or 3.13"
	@echo "  make PEERS= TARGET              on 3.11, without torch and transformers; PEERS=1 on 3.12 and 3.13, with them"

venv: $(stamp) $(if $(PEERS),$(peers)) ## .venv with exactly the lock of this Python, and this package

peers: $(peers) ## torch and transformers in .venv too, which tests and benchmarks compare with (several GB on 3.12, 3.13)

$(peers): $(stamp)
	@rm -f $(VENV)/peers-*
	torch=requirements-torch-cpu.lock; \
	$(install) --quiet --dry-run -r $$torch >/dev/null 2>&1 || torch=requirements-torch.lock; \
	$(install) -r $(LOCK) -r requirements-peers.lock -r $$torch
	@touch $(peers)

$(stamp):
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	  echo "tigerjax needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $(or $(version),not a Python that runs here)." \
	       "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@rm -f $(VENV)/installed-*
	@test "$$($(BIN)/python -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)" = "$(version)" \
	  || "$(PYTHON)" -m venv --clear $(VENV) || { \
	  echo "$(PYTHON) -m venv failed; on Debian and Ubuntu install the package python3-venv, then try again." >&2; exit 2; }
	$(install) -r $(LOCK)
	$(BIN)/python -m pip --disable-pip-version-check install --no-deps --no-build-isolation -e .
	@touch $(stamp)

quickstart: venv ## the whole recipe on the embedded text: CPU, minutes, ends in runs/quickstart/report.html
	@$(BIN)/tigerjax quickstart

# All four run even when one fails, so that one call shows everything there is to mend. Types are checked meanwhile.
test: venv ## linters, types and the default test suite (what .ci/run calls)
	@status=0; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/ruff format --check . || status=1; \
	mkdir -p build; $(BIN)/mypy > build/mypy.log 2>&1 & types=$$!; \
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu" || status=1; \
	wait $$types || status=1; cat build/mypy.log; \
	exit $$status

fuzz: venv ## damaged files for every reader for an hour, with new seeds; what is found is kept in runs/fuzz. MINUTES=5: shorter
	@TIGERJAX_FUZZ_MINUTES=$(MINUTES) $(BIN)/python -m pytest tests/fuzz --timeout 0
	@TIGERJAX_FAULT_POINTS=$(FAULT_POINTS) $(BIN)/python -m pytest tests/faults --timeout 0

test-slow: venv ## the tests that take minutes each
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not gpu"

lint: venv ## ruff and mypy alone
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: venv ## rewrites the files as ruff wants them
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: venv ## the site of docs/ in site/, warnings are errors (the tests build it too)
	@$(BIN)/mkdocs build --strict --quiet && echo "wrote site/index.html"

bench: venv ## speed beside peers in one table; its repeats and versions in runs/bench/
	@$(BIN)/python benchmarks/speed/bench.py --out runs/bench

replicate: venv ## the method's claims on tiny models over three seeds; resumes; docs/REPLICATION.md from its cells
	@$(BIN)/python benchmarks/studies/replicate.py --out runs/replicate
	@$(BIN)/python benchmarks/studies/replicate.py --out runs/replicate --write

drill: venv ## a run of two processes, killed 20 times: its final weights are those of the undisturbed one
	@$(BIN)/python benchmarks/studies/drill.py

drill-faults: venv ## fifty faults in a run of four processes: none loses a save, its final weights are the undisturbed ones
	@$(BIN)/python benchmarks/studies/faults.py

drill-slurm: venv ## a run under a real Slurm, which loses a node's task and is queued again (root; slurm-wlm and munge)
	@$(BIN)/python benchmarks/studies/drill_slurm.py

drill-image: venv ## the image of launch/Dockerfile built and tried; without a Docker daemon: HOW="--python DIR" (docs/OPERATIONS.md)
	@$(BIN)/python benchmarks/studies/image.py $(HOW)

# The versions stay, and so do the lines of text above them. --universal keeps the files of every platform.
lock: ## the hashes of the locks anew, after a version in one was changed by hand (needs uv: pip install uv)
	@for lock in requirements-py311 requirements-py312 requirements-peers requirements-torch requirements-gpu; do \
	  python=3.11; case $$lock in *py312 | *gpu) python=3.12 ;; esac; \
	  mkdir -p build && sed -n '/^#/p' $$lock.lock > build/$$lock.text && \
	  sed -e '/^#/d' -e '/^ *--hash=/d' -e 's/ *\\$$//' $$lock.lock > build/$$lock.in && \
	  $(UV) pip compile --quiet --no-deps --generate-hashes --no-annotate --no-header --universal \
	    --python-version $$python build/$$lock.in -o build/$$lock.out && \
	  cat build/$$lock.text build/$$lock.out > $$lock.lock && echo "wrote $$lock.lock" || exit 1; \
	done

clean: ## caches of the tools; keeps .venv and runs/
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
