# long-is-more: `make demo` and `make test` are all that a newcomer needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet
PROFILE ?= tiny
LAB_ROOT ?= $(CURDIR)
USER_ID ?= $(shell id -u)
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# A run is a dozen processes: the project's own modules are compiled once, not in each of them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-rest test-all test-long run batch figures site bench check-gpu lab badges lint style format setup setup-dev \
	setup-batch clean help

help:
	@echo "make demo       install and run the whole loop with SmolLM2-135M, in minutes on 2 cores; without a network on 'tiny'"
	@echo "make test       lint, types and the tests that prove the project on a laptop: six minutes on 2 cores"
	@echo "make test-all   make test, then kills, faults and second runs, and what needs a browser or Slurm"
	@echo "make test-long  JupyterLab, Colab's versions, Slurm, many kills: two hours"
	@echo "make run PROFILE=colab-t4   run a profile on this machine"
	@echo "make batch PROFILE=llama2-7b BATCH=slurm   a profile as a grid of jobs; without BATCH in parallel on this machine"
	@echo "make figures    redraw figures/ from the committed tables"
	@echo "make site       the notebooks of a finished run as pages for any web server (PROFILE=..., else the demo's)"
	@echo "make bench      the measured aims that this machine can check"
	@echo "make check-gpu  whether training and generation hold on this machine's card, in ten minutes"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make badges REPO=owner/name   write where the project lives into badges and set-up cells"

# --- installation: a stamp per requirements file, so that a second call installs nothing ---------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) pip==26.3  # the one that comes with Python 3.11 is much slower

$(VENV)/.runtime: requirements.txt pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV): a few minutes ..."
	$(INSTALL) -r requirements.txt
	PYTHONWARNINGS=ignore $(INSTALL) --no-deps -e .
	@touch $@

$(VENV)/.batch: requirements-batch.txt $(VENV)/.runtime
	$(INSTALL) -r requirements-batch.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-benchmarks.txt $(VENV)/.batch
	$(INSTALL) -r requirements-dev.txt
	@touch $@

setup: $(VENV)/.runtime
setup-dev: $(VENV)/.dev
setup-batch: $(VENV)/.batch

# --- the project ---------------------------------------------------------------------------------------------------

demo: setup
	$(BIN)/python -m nbutils.run demo --stand-in tiny

run: setup
	$(BIN)/python -m nbutils.run $(PROFILE)

# BATCH: slurm, kubernetes, or a folder with a Snakemake profile (SNAKEMAKE_PROFILE works as well); OPTIONS: Snakemake's.
batch: setup-batch
	$(BIN)/python -m nbutils.execution.cluster $(PROFILE) $(if $(BATCH),--on $(BATCH)) $(if $(OPTIONS),-- $(OPTIONS))

# The root is the repository, so that the notebooks' links to docs/ lead somewhere. JupyterLab refuses the user root
# unless told otherwise, and in a container that is who one is.
lab: setup
	$(if $(filter 0,$(USER_ID)),@echo "As root: whoever has the token below can do anything on this machine or in this container.")
	$(BIN)/jupyter lab $(if $(filter 0,$(USER_ID)),--allow-root )--ServerApp.root_dir="$(LAB_ROOT)" --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

figures: setup
	$(BIN)/python -m nbutils.figures

# The demo's where no profile is named.
site: setup
	$(BIN)/python -m nbutils.execution.site $(if $(filter file,$(origin PROFILE)),demo,$(PROFILE))

badges: setup
	$(BIN)/python -m nbutils.execution.badges "$(REPO)"

bench: setup-dev
	$(BIN)/python benchmarks/run.py

check-gpu: setup
	$(BIN)/python -m nbutils.execution.check_gpu

# --- checks --------------------------------------------------------------------------------------------------------

style: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb

lint: style
	$(BIN)/mypy

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two processes; a file's tests stay together, since they share what they have made.
PYTEST_2 := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# mypy works beside the tests and speaks after them.
test: style
	@said=$$(mktemp); $(BIN)/mypy >$$said 2>&1 & types=$$!; \
	$(PYTEST_2) -m "not thorough and not system and not long"; tests=$$?; \
	wait $$types; types=$$?; echo "mypy: $$(cat $$said)"; rm -f $$said; \
	exit $$((tests | types))

test-rest: setup-dev
	$(PYTEST_2) -m "(thorough or system) and not long"

test-all: test
	@$(MAKE) --no-print-directory test-rest

test-long: setup-dev
	$(BIN)/python -m pytest -m long

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
