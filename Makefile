# make book      environment, data, embeddings, every notebook, the book     (PROFILE=mini by default)
#                CLUSTER=workflow/profiles/slurm: as jobs of a cluster
# make notebook  one page and what it needs: NB=rwda/43 (the beginning of its name)
# make check     is everything there for `make book`?
# make test      the tests, without the slow ones
# make test-all  every test: also pages without data, clusters, killed runs, large networks
# make golden    renew tests/golden/smallest: the tables of the smallest run, when a change moves them on purpose
# make lab       JupyterLab in this folder
# make env       only the environment, in .venv     (TORCH=cpu: torch without CUDA, a tenth of the download)
# make verify    does the finished run agree with reference/mini?
# make reference renews it from the finished run, when a change moves numbers on purpose (CHANGES=1: not committed yet)
# make bundle    a finished run as one archive, results/mini.zip
# make pages     FROM=archive.zip: the book of such an archive, in pages/; needs no data and no torch
# make clean     everything that was made, except the environment and the datasets

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: env book notebook check test test-all golden lab reference verify bundle pages clean lock

PYTHON ?= python3
PROFILE ?= mini
CORES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
BIN := .venv/bin
RUN = $(BIN)/python workflow/run.py --profile "$(PROFILE)" $(if $(CLUSTER),--cluster "$(CLUSTER)",--cores $(CORES))
STAMP := .venv/.installed
# One thread a worker, which sleeps when it waits: OpenMP threads that share a core would spin.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
    MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=268435456 $(BIN)/python -m pytest -n $(CORES) --dist loadgroup

# Only this index, and first: with a second one pip would take a CUDA build wherever that is newer.
TORCH_INDEX := https://download.pytorch.org/whl/$(TORCH)
PIP := $(BIN)/python -m pip install --quiet --log .venv/pip.log
OR_SAY := || { echo "pip failed; all that it said is in .venv/pip.log" >&2; exit 1; }

env: $(STAMP)
	@test -z "$(TORCH)" || $(BIN)/python -c 'import sys, torch; \
	    kind = torch.__version__.partition("+")[2] if torch.version.cuda else "cpu"; \
	    kind == "$(TORCH)" or sys.exit(f"torch {torch.__version__} is there, not its $(TORCH) build: rm -r .venv first")'

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed, got $$($(PYTHON) --version). Try: make PYTHON=python3.12 env" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(if $(TORCH),$(PIP) --index-url $(TORCH_INDEX) torch torchvision $(OR_SAY))
	$(PIP) --editable ".[dev]" $(OR_SAY)
	touch $@

book: $(STAMP)
	@$(RUN)
	@echo "The book is at book/_build/html/index.html"

notebook: $(STAMP)
	@$(RUN) --page "$(NB)"

check: $(STAMP)
	$(BIN)/zsad check --profile "$(PROFILE)"

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-all: $(STAMP)
	$(PYTEST)

golden: $(STAMP)
	$(PYTEST) --renew tests/test_notebooks.py -k "page or golden" -m "not slow"

lab: $(STAMP)
	$(BIN)/python -m jupyterlab --ServerApp.root_dir=.

bundle: $(STAMP)
	@$(BIN)/python -m workflow.bundle pack --profile "$(PROFILE)"

reference: $(STAMP)
	@$(BIN)/python -m workflow.bundle reference --profile "$(PROFILE)" $(if $(CHANGES),--changes)

verify: $(STAMP)
	@$(BIN)/zsad verify "results/$(PROFILE)" "reference/$(PROFILE)"

# Where the whole environment is not there, what the book alone needs will do.
PAGES := $(if $(wildcard $(STAMP)),.venv,.venv-pages)

.venv-pages/.installed: requirements.lock
	$(PYTHON) -m venv .venv-pages
	.venv-pages/bin/python -m pip install --quiet --constraint requirements.lock \
	    jupyter-book sphinx-exercise sphinx-mathjax-offline click filelock numpy pandas pillow pydantic pyyaml safetensors tqdm
	touch $@

pages: $(PAGES)/.installed
	@test -n "$(FROM)" || { echo "make pages needs an archive: make pages FROM=mini.zip" >&2; exit 2; }
	@$(PAGES)/bin/python -m workflow.bundle pages "$(FROM)"

clean:
	rm -rf book/_build book/notebooks pages .pages-* executed logs results cache .snakemake .pytest_cache .ruff_cache

# Record the versions of this environment: no local build labels, nothing that only a GPU build of torch brings.
lock: $(STAMP)
	{ sed -n '/^#/p' requirements.lock; \
	  $(BIN)/python -m pip freeze --exclude-editable | grep -vE '^(nvidia|cuda|triton|setuptools|wheel|pip)\b' \
	    | sed -E 's/\+[a-z0-9.]+$$//; s/ @ .*//'; } > requirements.lock.tmp
	mv requirements.lock.tmp requirements.lock
