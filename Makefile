# `make demo` and `make test` set everything up themselves; a second run finds it done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Another build of torch: make setup TORCH_INDEX=<the wheel index that PyTorch's install page names for it>. On Linux the
# default build may bring gigabytes of CUDA; the page's index for CPUs does not.
TORCH_INDEX ?=
SWEEP ?= sweeps/quickstart.yaml
STORE ?= results
OUT ?= figures
PYTEST_ARGS ?= --numprocesses auto --dist loadgroup

.PHONY: help setup demo test docs dist lint types format bench clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(INSTALLED)  ## virtual environment in .venv, pinned dependencies, flatdist in editable mode

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "flatdist needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(INSTALL) --editable '.[run,report]'
	touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(INSTALL) --editable '.[run,report,s3,search,docs,dev]'
	touch $@

demo: $(INSTALLED)  ## the quickstart sweep on a local Ray, and its report
	$(BIN)/flatdist sweep $(SWEEP) --store $(STORE) --yes
	$(BIN)/flatdist report $(SWEEP) --store $(STORE) --out $(OUT)

test: $(INSTALLED_DEV)  ## the test suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

docs: $(INSTALLED_DEV)  ## the documentation site in site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

dist: $(INSTALLED_DEV)  ## wheel and sdist, tried in an environment without torch and ray
	bash .ci/dist $(BIN)/python

lint: $(INSTALLED_DEV)  ## lint, format check, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(INSTALLED_DEV)  ## strict type check
	$(BIN)/mypy

format: $(INSTALLED_DEV)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## engine benchmark on this machine
	$(BIN)/python -m benchmarks.engines

clean:  ## remove the environment and caches, never results
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
