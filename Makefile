# `make train` sets everything up and trains on the embedded dataset; `make help` lists the rest.
.DEFAULT_GOAL := help

PYTHON        ?= python3#  makes the virtual environment: 3.11 to 3.13
TORCH_BACKEND ?=#          empty: the index's default build; cpu, auto, cu128 …: another one that uv can find
ARGS          ?=#          more arguments: of a verb its overrides, of the tests pytest's options

VENV      := .venv
BIN       := $(VENV)/bin
UV        := $(BIN)/uv
INSTALLED := $(VENV)/.installed
INSTALL    = $(UV) pip install --quiet --python $(BIN)/python --compile-bytecode

# An empty value lets Python cache its byte code: without it `import lightning` takes 11 s instead of 4.
export PYTHONDONTWRITEBYTECODE :=

# src/atrous/command/make.py says which variables each verb takes, and what they mean.
VERBS := train sweep report dashboard sync reproduce doctor describe evaluate compare worst tune-crf predict demo crf \
  export submit prepare check-data browse

.PHONY: $(VERBS) help setup lock test test-all test-slurm test-cluster coverage mutate check format clean

$(VERBS): $(INSTALLED)
	@$(BIN)/python -m atrous.command.make $@

help: ## this list
	@PYTHONPATH=src $(PYTHON) -m atrous.command.make help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- set-up: redone only when pyproject.toml or the lock has changed ------------------------------------------------
setup: $(INSTALLED) ## the virtual environment in .venv [PYTHON=python3.12 TORCH_BACKEND=cpu]

$(UV):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v < (3, 14) and "Python 3.11 to 3.13 is \
	needed, $(PYTHON) is %d.%d: make $(MAKECMDGOALS) PYTHON=python3.12" % v)'
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, \
	apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8

# With another backend the wheels have other hashes than the lock's.
$(INSTALLED): pyproject.toml requirements.lock | $(UV)
	@echo "Setting up $(VENV) (a few GB the first time, a minute or two) …"
	@$(INSTALL) $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND) --no-verify-hashes) -r requirements.lock
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@$(INSTALL) --no-deps --no-build-isolation pydensecrf2==1.1 2>$(VENV)/pydensecrf2.log || echo "pydensecrf2 was not \
	built (it needs g++ and Python.h: apt-get install g++ python3-dev; log: $(VENV)/pydensecrf2.log). The native CRF \
	serves; only crf.backend=pydensecrf does not."
	@touch $@

lock: | $(UV) ## remake requirements.lock from pyproject.toml
	@$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev -o requirements.lock pyproject.toml

# ---- development ----------------------------------------------------------------------------------------------------
test: $(INSTALLED) ## the quick suite [ARGS="tests/crf -k gradient"]
	@$(BIN)/python -m pytest -q -m "not slow" $(ARGS)

test-all: $(INSTALLED) ## every test, the slow ones too
	@$(BIN)/python -m pytest -q $(ARGS)

test-slurm: $(INSTALLED) ## a sweep on a SLURM of this machine alone: needs Debian's slurm-wlm and munge, and root
	@PYTHON=$(abspath $(BIN))/python tests/slurm/run.sh

test-cluster: $(INSTALLED) ## a sweep on Ray (installed for it) and on submitit's local executor
	@$(INSTALL) --override requirements.lock hydra-ray-launcher==1.2.2 ray==2.60.0
	@$(BIN)/python -m pytest -q tests/sweep/test_launchers.py $(ARGS)

coverage: $(INSTALLED) ## which lines and branches of src/atrous the quick suite runs, in its processes too
	@$(BIN)/coverage erase && $(BIN)/coverage run -m pytest -q -m "not slow" $(ARGS)
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report --sort=cover

mutate: $(INSTALLED) ## put small faults into a copy of the code: does the quick suite catch each?
	@$(BIN)/python tests/mutate.py

check: $(INSTALLED) ## lint, format, types, import layers
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache

format: $(INSTALLED) ## format, and fix what ruff can
	@$(BIN)/ruff check --fix-only --quiet . && $(BIN)/ruff format --quiet .

clean: ## remove caches and the virtual environment; runs/ stays
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache src/*.egg-info
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
