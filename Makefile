# `make help` lists the targets. Another interpreter: make test PYTHON=python3.13
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ENV := .venv/$(VERSION)
BIN := $(ENV)/bin
CONFIG ?= experiments/configs/tri_modal.py
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: help train compare test test-slow test-tpu benchmark check format clean
.DEFAULT_GOAL := help

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

train: $(ENV)/train.installed  ## Install, then train CONFIG (images, speech, text).
	$(BIN)/python -m experiments.train --config=$(CONFIG) $(ARGS)

compare: $(ENV)/train.installed  ## Install, then compare all losses on equal terms.
	$(BIN)/python -m experiments.compare $(ARGS)

test: $(ENV)/test.installed  ## Install, then run the suite.
	$(PYTEST) -m "not slow and not tpu" $(ARGS)

test-slow: $(ENV)/test.installed  ## The other tests: programs that measure, rarer routes.
	$(PYTEST) -m slow $(ARGS)

test-tpu: $(ENV)-tpu/tpu-test.installed  ## Compile for TPUs that need not be there.
	$(ENV)-tpu/bin/python -m pytest -m tpu tests/experiments/test_plan_tpu.py $(ARGS)

benchmark: $(ENV)/train.installed  ## Install, then measure what the losses cost.
	$(BIN)/python -m experiments.benchmarks.losses $(ARGS)

check: $(ENV)/test.installed  ## Lint, format and type checks.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(ENV)/test.installed  ## Format the tree and mend what ruff can mend.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove environments and caches; runs are kept.
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache

# The compiler for TPUs is in an environment of its own: with it installed jax
# looks for TPUs wherever it starts.
$(ENV)-tpu/tpu-test.installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(ENV)-tpu
	$(ENV)-tpu/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[tpu-test]'
	touch $@

# An environment is reused until the dependencies change.
$(ENV)/%.installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(ENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@
