# Two commands on a fresh machine: `make demo` and `make test`. Both set themselves up in $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test lint format docs clean

demo: $(VENV)/.demo
	$(BIN)/corefold demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean:
	rm -rf .venv .cache site corefold-demo corefold-complete

$(VENV)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "corefold needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch and the rest into $(VENV); the first time takes a few minutes"
	$(PIP) torch
	$(PIP) --editable '.[cli]'
	@touch $@

$(VENV)/.demo: $(VENV)/.base packages/demo.txt
	$(PIP) --no-deps --requirement packages/demo.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.demo packages/test.txt
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps --requirement packages/test.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	$(PIP) --editable '.[docs]'
	@touch $@
