# Thin: two commands that do their own set-up. Everything else is `gempim --help`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench validation clean

# What a rebuilt wheel depends on.
SOURCES := pyproject.toml CMakeLists.txt $(shell find gempim analysis gem5_configs src_ext workloads -type f -not -name '*.pyc' 2>/dev/null)

$(VENV)/.installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check .
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[test]'
	@touch $@

# The main job: a real model from its GGUF to a speedup, energy and cost report.
demo: $(VENV)/.installed
	$(BIN)/gempim demo --out out --runs runs

test: $(VENV)/.test
	$(BIN)/pytest -n 2 --dist loadfile

lint: $(VENV)/.test
	$(BIN)/pytest tests/test_lint.py

bench: $(VENV)/.test
	$(BIN)/python -P -m gempim.bench

validation: $(VENV)/.installed
	$(BIN)/python -P -m gempim.validate --out analysis/validation

clean:
	rm -rf $(VENV) build
