# make book      environment, data, embeddings, every notebook, the book     (PROFILE=mini by default)
#                CLUSTER=workflow/profiles/slurm: as jobs of a cluster
# make check     is everything there for `make book`?
# make test      the tests, without the slow ones
# make test-all  every test: also pages without data, clusters, killed runs, large networks
# make lab       JupyterLab in this folder
# make env       only the environment, in .venv
# make clean     everything that was made, except the environment and the datasets

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: env book check test test-all lab clean lock

PYTHON ?= python3
PROFILE ?= mini
CORES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
BIN := .venv/bin
STAMP := .venv/.installed
# One thread a worker, which sleeps when it waits: OpenMP threads that share a core would spin.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(CORES) --dist loadgroup

env: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed, got $$($(PYTHON) --version). Try: make PYTHON=python3.12 env" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

book: $(STAMP)
	$(BIN)/python workflow/run.py --profile $(PROFILE) $(if $(CLUSTER),--cluster $(CLUSTER),--cores $(CORES))
	@echo "The book is at book/_build/html/index.html"

check: $(STAMP)
	$(BIN)/zsad check --profile $(PROFILE)

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-all: $(STAMP)
	$(PYTEST)

lab: $(STAMP)
	$(BIN)/python -m jupyterlab --ServerApp.root_dir=.

clean:
	rm -rf book/_build book/notebooks executed logs results cache .snakemake .pytest_cache .ruff_cache

# Record the versions of this environment: no local build labels, nothing that only a GPU build of torch brings.
lock: $(STAMP)
	{ sed -n '/^#/p' requirements.lock; \
	  $(BIN)/python -m pip freeze --exclude-editable | grep -vE '^(nvidia|cuda|triton|setuptools|wheel|pip)\b' \
	    | sed -E 's/\+[a-z0-9.]+$$//; s/ @ .*//'; } > requirements.lock.tmp
	mv requirements.lock.tmp requirements.lock
