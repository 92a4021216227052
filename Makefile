# Every target is one command, the same at a desk and in CI.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo quick test lint type chaos bench bench-gpu fmt clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## make .venv and install nmt with its tools into it (once; PYTHON=python3.12 chooses the Python)

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); PyTorch is large, so this may take some minutes."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: setup  ## learn English to Chinese from a small grammar, translate and score (minutes, no network)
	@PATH="$(CURDIR)/$(BIN):$$PATH" recipes/demo/run.sh

quick: lint type  ## lint, types and the tests that need no training (under 90 seconds on two cores)
	$(BIN)/python -m pytest -m "not slow"

test: lint type  ## lint, types and all tests (NMT_CORPORA=dir: also those that need real corpora)
	$(BIN)/python -m pytest

lint: setup  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup  ## mypy --strict, of tests and recipes too
	$(BIN)/mypy
	$(BIN)/mypy recipes/sequence-losses/report.py

chaos: setup  ## the long forms of the tests that kill, damage and feed nonsense (six minutes)
	NMT_CHAOS_KILLS=30 NMT_FUZZ_CASES=700 NMT_ODD_LINES=10000 \
		$(BIN)/python -m pytest -s tests/test_chaos.py tests/test_fuzz.py tests/test_lines.py

bench: setup  ## speed and memory beside a plain implementation (BENCH="--data data-bin --model model --input test.de")
	$(BIN)/python recipes/benchmarks/bench.py $(BENCH)

bench-gpu: setup  ## a large model on a GPU, beside plain nn.LSTM (BENCH="--rounds 5 --out results.md")
	$(BIN)/python recipes/benchmarks/gpu.py $(BENCH)

fmt: setup  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv and caches; work/ (corpora, trained models) stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find nmtcli recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +
