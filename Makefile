# `make demo` and `make test` set everything up themselves; a second run finds it done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Which build of torch: without an NVIDIA card the one for CPUs, since the ordinary one may bring gigabytes of CUDA on Linux;
# with a card the one for its driver. Another one: make setup TORCH=cpu, TORCH=cu128, ... (uv's --torch-backend).
TORCH ?= $(if $(wildcard /dev/nvidia[0-9]*),auto,cpu)
# Or an index of your own, such as a mirror: make setup TORCH_INDEX=URL
TORCH_INDEX ?=
# uv knows where PyTorch keeps each build; where that place cannot be reached, the ordinary index has to do.
TORCH_BY_UV = $(INSTALL) uv && { $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend $(TORCH) \
  --constraint constraints.txt torch || { echo "PyTorch's own index cannot be reached: taking torch from pip's" >&2; \
  $(INSTALL) torch; }; }
SWEEP ?= sweeps/quickstart.yaml
STORE ?= results
OUT ?= figures
PYTEST_ARGS ?= --numprocesses auto --dist loadgroup --durations 40

.PHONY: help setup demo test docs dist lock lint types format bench clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(INSTALLED)  ## virtual environment in .venv, pinned dependencies, flatdist in editable mode

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "flatdist needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "torch: the build for '$(if $(TORCH_INDEX),$(TORCH_INDEX),$(TORCH))'; another one: make $(MAKECMDGOALS) TORCH=cpu|cu128|..." >&2
	$(if $(TORCH_INDEX),$(INSTALL) --index-url $(TORCH_INDEX) torch,$(TORCH_BY_UV))
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
	$(BIN)/python docs/generate/pages.py build/docs
	$(BIN)/sphinx-build --fail-on-warning --nitpicky --fresh-env --quiet -c docs/site build/docs site

dist: $(INSTALLED_DEV)  ## wheel and sdist, tried in an environment without torch and ray
	bash .ci/dist $(BIN)/python

lock: $(INSTALLED_DEV)  ## uv.lock, at the versions of constraints.txt
	$(INSTALL) uv
	bash .ci/lock $(BIN)/uv

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
