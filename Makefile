# Two commands: `make run` starts the service, `make test` runs the tests. `make check` is for who changes the code.
# Settings by environment or on the line: make run PORT=9000 MODEL=stabilityai/sdxl-turbo (all: .venv/bin/imagine serve --help)

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: run test test-unit check format bench bench-batching bench-soak clean help
.DEFAULT_GOAL := help

help:
	@echo "make run    start the service (settings: HOST PORT MODEL ACCELERATOR ..., or ARGS='--help')"
	@echo "make test   run all tests"
	@echo "make check  lint, types, import rules, format"
	@echo "make bench  one picture at a time against plain diffusers"
	@echo "make bench-soak   ten minutes of random traffic with failures injected, and what must hold"
	@echo "make bench-batching  under load, against serial and static batching (half an hour)"
	@echo "make clean  remove the environment and caches"

$(VENV)/.installed-run: pyproject.toml requirements/lock.txt scripts/install.sh
	@PYTHON="$(PYTHON)" sh scripts/install.sh "$(VENV)" torch
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-run
	@PYTHON="$(PYTHON)" sh scripts/install.sh "$(VENV)" torch,dev
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-run
	@PYTHON="$(PYTHON)" sh scripts/install.sh "$(VENV)" torch,bench
	@touch $@

run: $(VENV)/.installed-run
	@exec $(BIN)/imagine serve $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

test-unit: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/unit $(ARGS)

bench: $(VENV)/.installed-run
	$(BIN)/python -m bench.against_diffusers $(ARGS)

bench-soak: $(VENV)/.installed-run
	$(BIN)/python -m bench.soak $(ARGS)

bench-batching: $(VENV)/.installed-bench
	$(BIN)/python -m bench.batching $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
