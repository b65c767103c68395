# `make help` lists the targets. Each one makes .venv with the versions of constraints.txt, then runs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
# One thread a process: the tests' processes are the parallelism, and idle threads that spin would slow them down.
QUIET_THREADS := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
PYTEST := $(QUIET_THREADS) $(BIN)/python -m pytest --numprocesses auto --dist worksteal --benchmark-disable

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint bench bench-report kernels clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.demo ## explain real images with the built-in model, into demo-output/
	OMP_WAIT_POLICY=passive $(BIN)/fastsal demo --out demo-output

test: $(VENV)/.test ## every test, and every kernel compiled for four GPU architectures
	$(PYTEST)
	$(QUIET_THREADS) $(BIN)/python -m fastsal_gate --compile-only

test-fast: $(VENV)/.test ## the tests of the inner loop, under two minutes
	$(PYTEST) -m "not slow"

lint: $(VENV)/.dev ## ruff, mypy --strict and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict fastsal kernels tools benchmarks
	$(BIN)/lint-imports

bench: $(VENV)/.bench ## time every op and explainer against its floor
	$(BIN)/python -m benchmarks

bench-report: bench ## all of that, and benchmarks/REPORT.md with its plots
	$(BIN)/python -m benchmarks.report

kernels: $(VENV)/.test ## the kernel gate: interpret, compile, and print each kernel's resources
	$(QUIET_THREADS) $(BIN)/python -m fastsal_gate

clean: ## remove .venv, builds and caches
	rm -rf $(VENV) build dist demo-output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# The stamp .venv/.EXTRA says that the project is installed with that extra, at the pinned versions.
.PRECIOUS: $(VENV)/.%
$(VENV)/.%: $(VENV)/.python constraints.txt
	$(PIP) --no-build-isolation --editable '.[$*]'
	@touch $@

# The build backend comes first and pinned; a system Python without ensurepip gets pip from its own pip.
$(VENV)/.python: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python %d.%d is not supported: name one from 3.11 to 3.13, as in: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --without-pip --clear $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@echo "installing the pinned versions into $(VENV); the first time this downloads PyTorch"
	$(PIP) scikit-build-core
	@touch $@
