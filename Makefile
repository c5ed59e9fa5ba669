# Tuning Galaxy: `make help` lists the targets.
#
#   MODEL=folder-or-hub-id make run    the same cells on another model
#   NOTEBOOKS="05 08" make run         only those
#   INSTALLER=pip PYTHON=python3.12 make run   set-up by other means; see setup.sh

.DEFAULT_GOAL := help

VENV ?= .venv
NOTEBOOKS ?=
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# two processes of one thread each: faster than one of two on small models
PARALLEL := -n 2 --dist loadfile

.PHONY: help run test test-quick lab data base bench bench-techniques badges
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s%s\n", $$1, $$2}' Makefile

run: $(READY) ## Set up once, execute the notebooks, write them as HTML to build/
	@$(PY) notebooks/run.py $(NOTEBOOKS)

test: $(READY) ## Everything: style, unit tests with coverage, then the notebooks
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest --cov $(PARALLEL)
	$(PY) notebooks/run.py --check

test-quick: $(READY) ## Style, helpers and structure: under two minutes
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest -q $(PARALLEL) tests/helpers tests/test_structure.py helpers

lab: $(READY) ## Open the notebooks in JupyterLab
	$(PY) -m jupyter lab notebooks

data: $(READY) ## Rebuild the datasets from their seed
	$(PY) datasets/build.py

base: $(READY) ## Rebuild the shipped base model; resumes after a stop
	$(PY) benchmarks/base.py

bench: $(READY) ## Measure, and write records to benchmarks/results/
	$(PY) -m benchmarks

bench-techniques: $(READY) ## All techniques on one task: makes its record; resumes after a stop
	$(PY) benchmarks/techniques.py

badges: $(READY) ## Write badges and set-up cells into the notebooks
	$(PY) notebooks/badges.py

$(READY): requirements.lock pyproject.toml
	@bash setup.sh $(VENV)
	@touch $@
