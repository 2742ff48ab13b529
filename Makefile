# `make demo` and `make test` each set up all they need; everything else is a part of them.

BIN := .venv/bin
READY := .venv/.ready

# A package index that is slow is waited for; a value of the user's own wins.
export PIP_DEFAULT_TIMEOUT ?= 60
export PIP_RETRIES ?= 8
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help venv rig demo lint types unit e2e test bench mutants clean

help:
	@echo "make demo    a private Aider, Ollama and small model, and a guarded session on them"
	@echo "make test    lint, types, every test; installs the same private programs"
	@echo "make lint | types | unit | e2e    parts of it (unit: all that needs no model)"
	@echo "make bench   what the guard costs, next to a plain terminal"
	@echo "make mutants changes operators of the core, a sample, and lists what no test notices (10 minutes)"
	@echo "make clean   remove .venv and caches; the private programs stay in the user's cache folder"

venv: $(READY)

# The marker is written last, so a broken installation is done again.
$(READY): pyproject.toml
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10; do \
	  if $$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
	    echo "Making .venv with $$($$python --version)"; exec $$python -m venv --clear .venv; \
	  fi; \
	done; echo "No Python 3.10 or later with its venv module is on PATH (make PYTHON=/path/to/python3)." >&2; exit 78
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group lint --group types --group test
	@touch $@

rig: $(READY)
	@$(BIN)/python -m aider_guard.demo.rig

demo: $(READY)
	@$(BIN)/python -m aider_guard.demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest -m "not e2e"

e2e: rig
	$(BIN)/python -m pytest -m e2e

# The tests come last, so that their summary is what is left to read.
test: lint types rig
	$(BIN)/python -m pytest

bench: rig
	$(BIN)/python -m bench

# SAMPLE and SEED choose: make mutants SAMPLE=200 SEED=7
mutants: $(READY)
	PYTHONPATH=tests $(BIN)/python -m mutants $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
