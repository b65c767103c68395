# `make help` lists the targets. Each one makes an environment with pinned versions, then runs.

PYTHON ?= python3
OLDEST_PYTHON ?= python3.10
VENV := .venv
CONSTRAINTS := constraints.txt
# The minor version of the oldest Python that the pins are for.
LEAST := 11
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint $(CONSTRAINTS)
# One thread a process: the tests' processes are the parallelism, and idle threads that spin would slow them down.
QUIET_THREADS := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
PYTEST := $(QUIET_THREADS) $(BIN)/python -m pytest --numprocesses auto --dist worksteal --benchmark-disable
# The other environments: make, with another folder, other pins and another interpreter.
MODELS := $(MAKE) --no-print-directory VENV=.venv-models CONSTRAINTS=constraints-models.txt
OLDEST := $(MAKE) --no-print-directory VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt PYTHON=$(OLDEST_PYTHON) LEAST=10
# Files with tests that are skipped without a package of the models' environment; a new one is found by its skip.
MODEL_PACKAGES := cv2|pytorch_grad_cam|timm|torchvision|transformers
MODEL_TESTS = $(shell grep -rlE 'importorskip..($(MODEL_PACKAGES))\b' --include='test_*.py' tests)
# Cases of each generator of make fuzz, and where they begin.
N ?= 1000
SEED ?= 0
# Of the soak.
MINUTES ?= 30

.DEFAULT_GOAL := help
.PHONY: captum-suite help demo test test-fast test-native test-long slow-tests test-models models-small models test-newest test-oldest fuzz interrupts soak gate kernels lint docs bench \
	bench-report gpu gpu-rehearsal install install-models clean _all-tests _model-tests _models

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.demo ## explain real images with the built-in model, into demo-output/
	OMP_WAIT_POLICY=passive $(BIN)/fastsal demo --out demo-output

test: $(VENV)/.test ## every test that needs no package of models, no GPU, no minutes of C++ and is no table in full
	$(PYTEST) -m "not native and not long"

test-fast: $(VENV)/.test ## the tests of the inner loop, under two minutes
	$(PYTEST) -m "not slow and not native and not long"

test-native: $(VENV)/.test ## the tests that compile C++: the native library, the guide to deployment, exported packages
	$(PYTEST) -m native

test-long: $(VENV)/.test ## tables, games and coverages in full
	$(PYTEST) -m long

slow-tests: $(VENV)/.test ## write tests/slow.txt, the tests that make test-fast leaves out, from a run of make test
	$(PYTEST) -m "not native and not long" --junitxml=build/junit.xml
	$(BIN)/python -m tools.slow_tests build/junit.xml

test-models: install-models ## tests with torchvision, timm, transformers, pytorch-grad-cam, OpenCV; in .venv-models
	@$(MODELS) _model-tests

models-small: install-models ## every method on the small architectures of tools/models/subset.txt, each cell checked; in .venv-models
	@$(MODELS) _models MATRIX='--subset --again all --strict --jobs 2 --results build/models/small'

models: install-models ## the matrix of every architecture and method, into docs/models.md; resumable, hours
	@$(MODELS) _models

test-newest: install-models ## every test on the newest PyTorch that is tested, in .venv-models
	@$(MODELS) _all-tests

test-oldest: ## every test on the oldest Python and PyTorch, in .venv-oldest; OLDEST_PYTHON names the interpreter
	@$(OLDEST) .venv-oldest/.test
	@$(OLDEST) _all-tests

captum-suite: $(VENV)/.test ## Captum's own tests, of a checkout CAPTUM=DIR, with our classes in place of Captum's
	$(PIP) parameterized==0.9.0
	$(QUIET_THREADS) $(BIN)/python -m tools.captum_suite $(CAPTUM) -- --numprocesses auto

interrupts: $(VENV)/.test ## Ctrl-C at every line of fastsal that a call of each method executes, and 1,000 of a timer: an hour
	$(QUIET_THREADS) $(BIN)/python -m tests.fuzz.interrupts --every 1 --timed 1000

soak: $(VENV)/.test ## 16 threads of mixed methods and predictions with one model for MINUTES, against one thread's bits
	$(QUIET_THREADS) $(BIN)/python -m tests.fuzz.soak --minutes $(MINUTES)

fuzz: $(VENV)/.test ## hostile files and option lists, random networks: N of each from SEED on
	$(QUIET_THREADS) $(BIN)/python -m tests.fuzz.hostile_files --n $(N) --seed $(SEED)
	$(QUIET_THREADS) $(BIN)/python -m tests.fuzz.command_lines --n $(N) --seed $(SEED)
	$(QUIET_THREADS) $(BIN)/python -m tests.fuzz.positions --n $(N) --seed $(SEED)
	$(QUIET_THREADS) $(BIN)/python -m tests.fuzz.measured --n $(N) --seed $(SEED)

gate: $(VENV)/.test ## every kernel compiled for four GPU architectures, without a GPU
	$(QUIET_THREADS) $(BIN)/python -m fastsal_gate --compile-only

kernels: $(VENV)/.test ## the whole kernel gate: interpret, compile, and print each kernel's resources
	$(QUIET_THREADS) $(BIN)/python -m fastsal_gate

lint: $(VENV)/.dev ## ruff, mypy --strict and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict fastsal kernels tools benchmarks
	$(BIN)/lint-imports

docs: $(VENV)/.docs ## the documentation, into build/docs/index.html; without the network, warnings are errors
	OMP_WAIT_POLICY=passive $(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

bench: $(VENV)/.bench ## time every op and explainer against its floor
	$(BIN)/python -m benchmarks

bench-report: bench ## all of that, and benchmarks/REPORT.md with its plots
	$(BIN)/python -m benchmarks.report

gpu: $(VENV)/.test ## nine minutes with a card: what is right and how fast it is there, into docs/your-card.md
	-$(BIN)/python -m tools.gpu_check --out gpu-check-output --budget 540
	$(BIN)/python -m benchmarks.card gpu-check-output

gpu-rehearsal: $(VENV)/.test ## the same on the CPU with tiny sizes, under two minutes
	$(QUIET_THREADS) $(BIN)/python -m tools.gpu_check --out build/gpu-rehearsal --budget 120 --rehearse

install: $(VENV)/.dev $(VENV)/.test ## make .venv, with what tests and lint need

install-models: ## make .venv-models: several GB
	@$(MODELS) .venv-models/.models

clean: ## remove the environments, builds and caches
	rm -rf .venv .venv-* build dist demo-output gpu-check-output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# These run in an environment that is there already.
_all-tests:
	$(PYTEST)

_model-tests:
	$(BIN)/python -c 'import cv2, pytorch_grad_cam, timm, torchvision, transformers'
	$(PYTEST) $(MODEL_TESTS)

_models:
	$(QUIET_THREADS) PYTHONPATH=.:kernels $(BIN)/python -m tools.models $(MATRIX)

# The stamp VENV/.EXTRA says that the project is installed with that extra, at the pinned versions.
.PRECIOUS: $(VENV)/.%
$(VENV)/.%: $(VENV)/.python $(CONSTRAINTS)
	$(PIP) --no-build-isolation --editable '.[$*]'
	@touch $@

# The build backends come first and pinned; a system Python without ensurepip gets pip from its own pip.
$(VENV)/.python: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, $(LEAST)) <= sys.version_info[:2] <= (3, 13) else "Python %d.%d has no pins in $(CONSTRAINTS): name one from 3.$(LEAST) to 3.13, as in: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --without-pip --clear $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@echo "installing the pinned versions into $(VENV); the first time this downloads PyTorch"
	$(PIP) scikit-build-core setuptools
	@touch $@
