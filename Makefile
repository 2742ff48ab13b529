# `make demo` and `make test` each set up all they need; everything else is a part of them.

BIN := .venv/bin
# The package with what it needs; and what lint, types and tests need besides.
READY := .venv/.ready
DEV := .venv/.dev

# Two workers more than processors, up to five: with one more, an eighth of two processors was idle. The durations show
# what is slow.
WORKERS := $(shell expr `getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2` + 2)
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 5 --dist loadgroup --durations 20

# A package index that is slow is waited for; a value of the user's own wins.
export PIP_DEFAULT_TIMEOUT ?= 60
export PIP_RETRIES ?= 8
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help venv rig demo lint types unit e2e test bench mutants docs pictures renew clean

help:
	@echo "make demo    a private Aider, Ollama and small model, and a guarded session on them"
	@echo "make test    lint, types, every test; installs the same private programs"
	@echo "make lint | types | unit | e2e    parts of it (unit: without models, and without the slowest)"
	@echo "make bench   what the guard costs and saves, in about two hours"
	@echo "make mutants changes operators of core and counting, a sample, and lists what no test notices (about 5 minutes)"
	@echo "make docs    the site of docs/, in build/site; a dead link fails it"
	@echo "make pictures  record the pictures of the README anew, from real sessions (half a minute)"
	@echo "make renew   write the manual page and the kept screens anew; read the difference"
	@echo "make clean   remove .venv and caches; the private programs stay in the user's cache folder"

venv: $(DEV)

# $(call alive,TITLE,COMMAND): a command that prints nothing, with a dot every two seconds while it runs.
# (The dots end with the shell that started them, also when that is killed.)
define alive
printf '%s ' '$(1)'; \
  (while sleep 2 && kill -0 $$$$ 2>/dev/null; do printf .; done) & dots=$$!; \
  $(2); status=$$?; kill $$dots 2>/dev/null; echo; [ $$status -eq 0 ] || exit $$status
endef

# The marker is written last, so a broken installation is done again. What the private programs need of
# this machine is looked for before anything is downloaded; `make` with another target does without.
$(READY): pyproject.toml
	@found=; for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10; do \
	  if $$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "No Python 3.10 or later with its venv module is on PATH (make PYTHON=/path/to/python3)." >&2; exit 78; \
	fi; echo "Using $$($$found --version)"; \
	$(if $(filter demo rig test e2e bench,$(MAKECMDGOALS)),$$found -B -m aider_guard.demo.machine || exit;) \
	$(call alive,Making .venv,$$found -m venv --clear .venv)
	@$(call alive,Installing pip,$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1')
	@$(call alive,Installing aider-guard,$(BIN)/python -m pip install --quiet --editable .)
	@touch $@

$(DEV): $(READY)
	@$(call alive,Installing what the checks and tests need,$(BIN)/python -m pip install --quiet --group lint --group types --group audit --group docs --group release --group test)
	@touch $@

rig: $(READY)
	@$(BIN)/python -m aider_guard.demo.rig

demo: $(READY)
	@$(BIN)/python -m aider_guard demo

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

unit: $(DEV)
	$(PYTEST) -m "not e2e and not slow"

e2e: $(DEV) rig
	$(PYTEST) -m e2e

# The tests come last, so that their summary is what is left to read.
test: lint types rig
	$(PYTEST)

bench: $(DEV) rig
	$(BIN)/python -m bench
	$(BIN)/python -m bench.waiting
	$(BIN)/python -m bench.waiting --model gemma
	$(BIN)/python -m bench.restarts
	$(BIN)/python -m bench.reading
	$(BIN)/python -m bench.predicted

# SAMPLE and SEED choose: make mutants SAMPLE=200 SEED=7
mutants: $(DEV)
	PYTHONPATH=tests $(BIN)/python -m mutants $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

docs: $(DEV)
	$(BIN)/python -m release.site_pages
	$(BIN)/zensical build --strict --clean

pictures: $(DEV) rig
	PYTHONPATH=tests $(BIN)/python -m release.pictures

renew: $(DEV)
	RENEW=1 $(BIN)/python -m pytest -q -k "screen or page" tests/test_release.py tests/view

clean:
	rm -rf .venv .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
