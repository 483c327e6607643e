# `make train` sets everything up and trains on the embedded dataset; `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# ---- what you may set on the command line -------------------------------------------------------------------------
PYTHON        ?= python3#  the interpreter of the virtual environment (3.11 to 3.13)
TORCH_BACKEND ?=#          empty: the index's default build; cpu, auto, cu128 …: another one, which uv knows how to find
DATASET       ?= shapes
ROOT          ?=#          where its files are, if not under data/
BACKBONE      ?=
HEAD          ?=
SEED          ?=
RUN           ?=#          the folder of a run
A             ?=#          for `make compare`: is run B better than run A
B             ?=
SWEEP         ?=#          a table of the papers, or a question: the files of sweeps/
CRF           ?=#          v1, v2, or a file
SEARCH        ?=
IMAGE         ?=#          what `make crf` refines, with one of
LABEL         ?=
PROBS         ?=
IMAGES        ?=#          what `make predict` looks at: a picture, a video, a folder, or a quoted pattern
OUT           ?=
CHECK         ?=#          an archive for `make submit` to check
ARGS          ?=#          any further Hydra overrides: ARGS="trainer=ddp trainer.devices=8"

VENV      := .venv
BIN       := $(VENV)/bin
UV        := $(BIN)/uv
INSTALLED := $(VENV)/.installed

# An empty value lets Python cache its byte code: without it `import lightning` takes 11 s instead of 4.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup train sweep report dashboard sync evaluate compare worst predict tune-crf crf submit prepare check-data \
  browse demo reproduce doctor test test-all test-slurm test-cluster coverage mutate check format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- use ----------------------------------------------------------------------------------------------------------
OVERRIDES = experiment=$(DATASET) $(if $(BACKBONE),model/backbone=$(BACKBONE)) $(if $(HEAD),model/head=$(HEAD)) \
            $(if $(SEED),seed=$(SEED)) $(if $(ROOT),data.root=$(ROOT)) $(ARGS)

train: $(INSTALLED) ## train DATASET=shapes [BACKBONE= HEAD= SEED= ARGS="…"], and show the result
	@$(BIN)/atrous train $(OVERRIDES)

# Only where it is asked for: without it the rows are trained on the data of their paper.
SMALL = $(if $(filter undefined default file,$(origin DATASET)),,$(if $(filter shapes camvid,$(DATASET)),small=$(DATASET),\
        $(error DATASET=$(DATASET): a sweep takes shapes or camvid, or without DATASET its own data)))
TWO_SEEDS := 0,1
SEEDS = $(if $(SEED),seed=$(SEED),$(if $(SMALL),seed=$(TWO_SEEDS)))
OF_SWEEP = $(if $(SWEEP),sweeps=$(SWEEP)) $(SMALL) $(SEEDS) $(if $(ROOT),data.root=$(ROOT)) $(ARGS)

sweep: $(INSTALLED) ## a paper's table, run by run, and continued: SWEEP=v2_table3 [DATASET=shapes SEED= ARGS="dry_run=true"]
	@$(BIN)/atrous sweep $(OF_SWEEP)

report: $(INSTALLED) ## its table and its page, also while it runs: SWEEP=v2_table3 [DATASET= SEED= ARGS="keep=true"]
	@$(BIN)/atrous report $(OF_SWEEP)

dashboard: $(INSTALLED) ## its page in W&B, or the page's specification: SWEEP=v2_table3 [DATASET= SEED= ARGS=]
	@$(BIN)/python -c 'import sys, importlib.util; sys.exit(importlib.util.find_spec("wandb_workspaces") is None)' || \
	  $(INSTALL) --override requirements.lock wandb-workspaces==0.4.13
	@$(BIN)/atrous dashboard $(OF_SWEEP)

sync: $(INSTALLED) ## send to W&B what runs have kept on this disk [ARGS="runs=…"]
	@$(BIN)/atrous sync $(ARGS)

reproduce: $(INSTALLED) ## a run again, from its folder alone, and whether it is the same: RUN=runs/… [OUT=]
	@$(BIN)/atrous reproduce $(if $(RUN),'run=$(RUN)') $(if $(OUT),'out=$(OUT)') $(ARGS)

doctor: $(INSTALLED) ## what a bug report needs, and what looks wrong here [OUT=]
	@$(BIN)/atrous doctor $(if $(OUT),'out=$(OUT)') $(ARGS)

evaluate: $(INSTALLED) ## a trained network scored, before and after a CRF: RUN=runs/… [CRF=v1 ARGS="split=val"]
	@$(BIN)/atrous evaluate $(if $(RUN),'run=$(RUN)') $(if $(CRF),'crf=$(CRF)') $(ARGS)

predict: $(INSTALLED) ## your own pictures or videos: RUN=runs/… IMAGES=photo.jpg, a folder or 'a/**/*.jpg' [OUT= CRF=]
	@$(BIN)/atrous predict $(if $(RUN),'run=$(RUN)') $(if $(IMAGES),'images=$(IMAGES)') $(if $(OUT),'out=$(OUT)') \
	  $(if $(CRF),'crf=$(CRF)') $(ARGS)

compare: $(INSTALLED) ## is run B better than run A, or is it noise: A=runs/… B=runs/… [CRF=v1 ARGS="split=val"]
	@$(BIN)/atrous compare $(if $(A),'a=$(A)') $(if $(B),'b=$(B)') $(if $(CRF),'crf=$(CRF)') $(ARGS)

worst: $(INSTALLED) ## the pictures on which a network fails most, on a page: RUN=runs/… [CRF=v1 ARGS="count=24"]
	@$(BIN)/atrous worst $(if $(RUN),'run=$(RUN)') $(if $(CRF),'crf=$(CRF)') $(ARGS)

tune-crf: $(INSTALLED) ## the papers' search for the CRF's parameters: RUN=runs/… [SEARCH=v1 ARGS="pictures=100"]
	@$(BIN)/atrous tune $(if $(RUN),'run=$(RUN)') $(if $(SEARCH),search=$(SEARCH)) $(ARGS)

crf: $(INSTALLED) ## any label map refined by the CRF: IMAGE=a.jpg LABEL=a.png or PROBS=a.npy [CRF=v1 ARGS="steps=true"]
	@$(BIN)/atrous refine $(if $(IMAGE),'image=$(IMAGE)') $(if $(LABEL),'label=$(LABEL)') \
	  $(if $(PROBS),'probs=$(PROBS)') $(if $(CRF),'crf=$(CRF)') $(ARGS)

submit: $(INSTALLED) ## what VOC's and Cityscapes' servers take: RUN=runs/… [ROOT= CRF= ARGS="split=val"], or CHECK=a.tgz DATASET=voc
	@$(BIN)/atrous submit $(if $(RUN),'run=$(RUN)') $(if $(CHECK),'check=$(CHECK)') $(if $(CRF),'crf=$(CRF)') \
	  $(if $(filter voc cityscapes,$(DATASET)),data=$(DATASET)) $(if $(ROOT),'root=$(ROOT)') $(ARGS)

prepare: $(INSTALLED) ## a dataset from its archives: DATASET=voc [ROOT= ARGS="archives=~/Downloads download=true"]
	@$(BIN)/atrous prepare data=$(DATASET) $(if $(ROOT),root=$(ROOT)) $(ARGS)

check-data: $(INSTALLED) ## look at every file of it, count its classes: DATASET=voc [ROOT= ARGS="subset=true"]
	@$(BIN)/atrous check-data data=$(DATASET) $(if $(ROOT),data.root=$(ROOT)) $(ARGS)

browse: $(INSTALLED) ## pictures as the network will see them: DATASET=voc [ROOT= SEED= ARGS="count=24 split=val"]
	@$(BIN)/atrous browse $(OVERRIDES)

GRADIO := 6.31.0
demo: $(INSTALLED) ## a page to drop pictures on: what a network sees, the CRF by sliders: RUN=runs/… [CRF=v1 ARGS="port=8000"]
	@$(BIN)/python -c 'import sys, importlib.util; sys.exit(importlib.util.find_spec("gradio") is None)' || { \
	  echo "Installing gradio $(GRADIO) for the page (some 240 MB, only this once) …"; \
	  $(INSTALL) --override requirements.lock gradio==$(GRADIO); }
	@$(BIN)/atrous demo $(if $(RUN),'run=$(RUN)') $(if $(CRF),'crf=$(CRF)') $(ARGS)

# ---- set-up: redone only when pyproject.toml or the lock has changed -------------------------------------------------
setup: $(INSTALLED) ## the virtual environment in .venv [PYTHON=python3.12 TORCH_BACKEND=cpu]

$(UV):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v < (3, 14) and "Python 3.11 to 3.13 is \
	needed, $(PYTHON) is %d.%d: make $(MAKECMDGOALS) PYTHON=python3.12" % v)'
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, \
	apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8

# With another backend the wheels have other hashes than the lock's.
INSTALL = $(UV) pip install --quiet --python $(BIN)/python --compile-bytecode

$(INSTALLED): pyproject.toml requirements.lock | $(UV)
	@echo "Setting up $(VENV) (a few GB the first time, a minute or two) …"
	@$(INSTALL) $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND) --no-verify-hashes) -r requirements.lock
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@$(INSTALL) --no-deps --no-build-isolation pydensecrf2==1.1 2>$(VENV)/pydensecrf2.log || echo "pydensecrf2 was not \
	built (it needs g++ and Python.h: apt-get install g++ python3-dev; log: $(VENV)/pydensecrf2.log). The native CRF \
	serves; only crf.backend=pydensecrf does not."
	@touch $@

# Left out of the lock: what torch itself brings in where it wants CUDA, so that one lock serves CPU-only users too.
CUDA = triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cccl nvidia-cuda-cupti \
  nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-cusolver nvidia-cusparse \
  nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

lock: | $(UV) ## remake requirements.lock from pyproject.toml
	@$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev --generate-hashes --no-annotate \
	  --no-emit-index-url --custom-compile-command "make lock" $(CUDA:%=--no-emit-package %) \
	  -o requirements.lock pyproject.toml

# ---- quality ------------------------------------------------------------------------------------------------------
test: $(INSTALLED) ## the quick suite
	@$(BIN)/python -m pytest -q -m "not slow" $(ARGS)

test-all: $(INSTALLED) ## every test, the slow ones too
	@$(BIN)/python -m pytest -q $(ARGS)

test-slurm: $(INSTALLED) ## a sweep on a SLURM of this machine alone: needs Debian's slurm-wlm and munge, and root
	@PYTHON=$(abspath $(BIN))/python tests/slurm/run.sh

test-cluster: $(INSTALLED) ## a sweep on Ray (installed for it) and on submitit's local executor
	@$(INSTALL) --override requirements.lock hydra-ray-launcher==1.2.2 ray==2.60.0
	@$(BIN)/python -m pytest -q tests/sweep/test_launchers.py $(ARGS)

coverage: $(INSTALLED) ## which lines and branches of src/atrous the quick suite runs, in its processes too
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q -m "not slow" $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --sort=cover

mutate: $(INSTALLED) ## small faults put into a copy of the code: does the quick suite catch each?
	@$(BIN)/python tests/mutate.py

check: $(INSTALLED) ## lint, format, types, import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(INSTALLED) ## let ruff format and mend what it can
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

clean: ## remove caches and the virtual environment; runs/ stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache src/*.egg-info
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
