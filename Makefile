# Two commands on a fresh machine: `make demo` and `make test`. Both set themselves up in $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# Python compiles what it imports and keeps it, a third of what is installed: to compile all takes a minute.
PIP += --no-compile
export PYTHONDONTWRITEBYTECODE =
# A worker takes up to 3 GB. Each takes whole files, so that a module's fixtures are made once; tests/conftest.py orders
# the files, which xdist would order by their number of tests.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo dev test lint format docs clean

demo: $(VENV)/.demo
	$(BIN)/corefold demo

dev: $(VENV)/.dev

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL)

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

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "corefold needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch and the rest into $(VENV); the first time takes a few minutes"
	$(PIP) --upgrade pip  # That of Python 3.11 takes three times as long to choose versions.
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt packages/demo.txt
	$(PIP) --editable '.[cli]'
	$(PIP) --no-deps --requirement packages/demo.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt packages/demo.txt packages/test.txt
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps --requirement packages/demo.txt --requirement packages/test.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable '.[docs]'
	@touch $@
