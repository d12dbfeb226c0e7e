# Surgeline's chores. `make setup` works from a fresh clone; every other target calls it where it must.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PY := $(VENV)/bin/python
# Stamps say which dependencies are in: `dev` holds everything that `run` does.
DEV := $(VENV)/.stamp-dev
RUN := $(VENV)/.stamp-run

.PHONY: help setup run-setup demo test lint bench soak clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(DEV) ## Make .venv with what development needs

run-setup: $(RUN)

# A venv without a working Python 3.11 or 3.12 is made anew. PYTHON=... chooses the interpreter.
define make_venv
	version='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'; \
	if ! $(PY) -c "$$version" 2>/dev/null; then \
		for python in $${PYTHON:-} python3.11 python3.12 python3 python; do \
			if "$$python" -c "$$version" 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$${found:-}" ]; then echo "make: needs Python 3.11 or 3.12 on PATH, or PYTHON=/path/to/it" >&2; exit 1; fi; \
		"$$found" -m venv --clear $(VENV); \
	fi
endef

$(DEV): pyproject.toml
	@$(make_venv)
	$(PY) -m pip install -q -e '.[dev]'
	@touch $@ $(RUN)

$(RUN): pyproject.toml
	@$(make_venv)
	$(PY) -m pip install -q -e .
	@touch $@

demo: run-setup ## A flash sale on this machine: broker, worker, serving, replay, one page of figures
	$(VENV)/bin/surgeline demo

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Broker tests wait more than they compute, so there are more processes than cores of a small machine.
# The second run has every capacity, cache and chunk at its least (tests/smallest.py): about a minute.
test: lint ## Lint, types, tests (KAFKA_HOME adds Apache Kafka to the broker tests)
	$(PY) -m pytest -m 'not slow' -n 4 --dist worksteal
	$(PY) -m pytest -n 2 --smallest tests/unit/state tests/unit/stream tests/unit/serving \
		tests/unit/models/test_trunk.py tests/unit/models/test_panel.py

bench: setup ## Every figure in bench/, each beside its peer and its limit
	$(PY) -m bench all

soak: setup ## The long tests: memory, restarts, ten million events
	$(PY) -m pytest -m slow

clean: ## Remove what this file makes and what tools cache (not .surgeline: that is data)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
