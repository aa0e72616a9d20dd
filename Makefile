# Two commands: `make run` starts the service and its web page, `make test` runs the tests.
# `make check` is for who changes the code.
# Settings by environment or on the line: make run PORT=9000 MODEL=stabilityai/sdxl-turbo (all: .venv/bin/imagine serve --help)

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
NEURON_VENV ?= .venv-neuron
OPEN_WEBUI_VENV ?= .venv-open-webui
BIN := $(VENV)/bin
ARGS ?=

.PHONY: run test test-unit fuzz test-neuron test-ipex test-open-webui check format bench bench-cuda bench-batching bench-full-size bench-soak \
	bench-overload bench-serving chaos clean help
.DEFAULT_GOAL := help

help:
	@echo "make run    start the service and its web page (settings: HOST PORT UI_PORT MODEL ACCELERATOR ..., or ARGS='--help')"
	@echo "make test   run all tests"
	@echo "make test-neuron  AWS Neuron's part of them alone, in an environment of its own"
	@echo "make test-ipex  the tests of the cpu accelerator with Intel's extension for PyTorch, in .venv-ipex"
	@echo "make test-open-webui  the real Open WebUI against the service (downloads 0.3 GB the first time)"
	@echo "make check  lint, types, import rules, format, secrets, locked packages"
	@echo "make bench  one picture at a time against plain diffusers"
	@echo "make bench-cuda   what a CUDA device makes of a full-size SDXL, each option apart, against diffusers"
	@echo "make bench-full-size  a full-size SDXL on the CPU against plain diffusers: memory, step, decode (7 GB of disk)"
	@echo "make bench-soak   ten minutes of random traffic, and what must hold (ARGS='--minutes 60'; --service for the whole service)"
	@echo "make bench-overload  five times the service's capacity: what it still draws, how soon it refuses the rest"
	@echo "make bench-serving   throughput and latency of the whole service against its bare engine and plain FastAPI"
	@echo "make chaos  ten minutes of load on several Ray nodes while their parts are killed in turn, and what clients notice"
	@echo "make bench-batching  under load, against serial and static batching (half an hour)"
	@echo "make fuzz   a hundred thousand made-up requests and files (EXAMPLES=500 tries fewer)"
	@echo "make clean  remove the environment and caches"

$(VENV)/.installed-run: pyproject.toml requirements/lock.txt scripts/install.sh
	@PYTHON="$(PYTHON)" sh scripts/install.sh "$(VENV)" torch,ui
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-run
	@PYTHON="$(PYTHON)" sh scripts/install.sh "$(VENV)" torch,ui,dev
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-run
	@PYTHON="$(PYTHON)" sh scripts/install.sh "$(VENV)" torch,bench
	@touch $@

$(NEURON_VENV)/.installed: pyproject.toml requirements/neuron.txt requirements/lock.txt scripts/install.sh
	@PYTHON="$(PYTHON)" sh scripts/install.sh "$(NEURON_VENV)" neuron-test
	@touch $@

# Intel's extension for PyTorch needs a torch of its own.
.venv-ipex/.installed: pyproject.toml requirements/ipex.txt scripts/install.sh
	@PYTHON="$(PYTHON)" sh scripts/install.sh .venv-ipex torch,ipex,dev ipex.txt
	@touch $@

run: $(VENV)/.installed-run
	@exec $(BIN)/imagine serve $(ARGS)

# Unit tests share nothing, so each core runs some of their files, with one thread each. Those that start a service follow.
ifeq ($(strip $(ARGS)),)
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --durations 15 tests/unit
	$(BIN)/python -m pytest --durations 30 tests/manifests tests/serve tests/browser
	@if "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; \
		then $(MAKE) test-neuron; else echo "Not run: make test-neuron, which needs Python 3.11."; fi
else
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)
endif

test-unit: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/unit $(ARGS)

# Some 60 routes and ways to get them wrong, each so often, and each parser: more than 100,000 cases in all.
fuzz: $(VENV)/.installed-dev
	IMAGINE_FUZZ_EXAMPLES=$(or $(EXAMPLES),2000) $(BIN)/python -m pytest -s --timeout 0 tests/unit/api/test_schema.py \
		tests/unit/api/test_refusals.py tests/unit/api/test_jobs.py tests/unit/test_parsers.py tests/unit/batch/test_prompts.py $(ARGS)

# The stand-in for AWS's packages is on the path of these tests alone. Ray's workers run in folders of their own.
test-neuron: $(NEURON_VENV)/.installed
	PYTHONPATH="$(CURDIR)/tests/neuron/stand_in:$(CURDIR)" $(NEURON_VENV)/bin/python -m pytest tests/neuron $(ARGS)

test-ipex: .venv-ipex/.installed
	.venv-ipex/bin/python -m pytest tests/unit/accelerators tests/unit/pipelines/test_onednn.py \
		tests/unit/pipelines/test_weights.py $(ARGS)

$(OPEN_WEBUI_VENV)/.installed: requirements/open-webui.txt scripts/install_open_webui.sh
	@PYTHON="$(PYTHON)" sh scripts/install_open_webui.sh "$(OPEN_WEBUI_VENV)"
	@touch $@

test-open-webui: $(VENV)/.installed-dev $(OPEN_WEBUI_VENV)/.installed
	OPEN_WEBUI="$(abspath $(OPEN_WEBUI_VENV))/bin/open-webui" $(BIN)/python -m pytest tests/open_webui $(ARGS)

bench: $(VENV)/.installed-run
	$(BIN)/python -m bench.against_diffusers $(ARGS)

bench-cuda: $(VENV)/.installed-bench
	$(BIN)/python -m bench.cuda $(ARGS)

bench-full-size: $(VENV)/.installed-run
	$(BIN)/python -m bench.full_size $(ARGS)

bench-soak: $(VENV)/.installed-run
	$(BIN)/python -m bench.soak $(ARGS)

bench-overload: $(VENV)/.installed-run
	$(BIN)/python -m bench.overload $(ARGS)

bench-serving: $(VENV)/.installed-run
	$(BIN)/python -m bench.serving_overhead $(ARGS)

chaos: $(VENV)/.installed-run
	$(BIN)/python -m bench.chaos $(ARGS)

bench-batching: $(VENV)/.installed-bench
	$(BIN)/python -m bench.batching $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pip --disable-pip-version-check check
	$(BIN)/python -m pytest -q tests/unit/test_no_secrets.py tests/unit/test_requirements.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(NEURON_VENV) $(OPEN_WEBUI_VENV) .venv-ipex .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
