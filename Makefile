# `make demo` and `make test` need Python 3.11 or newer and a C++ compiler; they make everything else.
# torch is installed first and pinned: the newest one may bring gigabytes of GPU packages along.

TORCH  ?= torch==2.13.0
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PYTEST_ARGS ?=
N ?= 5000
LOWERING ?= eager

BIN   := .venv/bin
KEY   := $(shell (cat pyproject.toml; echo '$(TORCH)') | cksum | tr ' ' '-')
READY := .venv/.ready-$(KEY)
FRAMEWORKS := .venv/.frameworks-$(KEY)
PIP   := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: help demo test test-full test-frameworks bench oracle models fuzz lint wheel clean

help:
	@echo "make demo | test | test-full | test-frameworks | bench | oracle | models | fuzz | lint | wheel | clean     (TORCH='$(TORCH)' PYTHON='$(PYTHON)')"

# The stamp's name holds a checksum of pyproject.toml and TORCH, so a change of either installs again.
$(READY):
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install "$(TORCH)"
	$(PIP) install "$(TORCH)" --editable ".[dev,examples]"
	rm -f .venv/.ready-*
	touch $@

$(FRAMEWORKS): $(READY)
	$(PIP) install "$(TORCH)" --editable ".[dev,examples,frameworks]"
	rm -f .venv/.frameworks-*
	touch $@

demo: $(READY)
	$(BIN)/python examples/gpt.py

# One thread per pytest worker: two workers with two threads each would fight over two cores.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --ignore tests/frameworks $(PYTEST_ARGS)

# The long grid too: every row of the catalogue through Inductor, and all that is marked slow; on a machine with a
# CUDA device also what is marked gpu.
test-full: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/frameworks $(PYTEST_ARGS)

# The training frameworks of docs/frameworks.md: some 2 minutes, and as much for their installation.
test-frameworks: $(FRAMEWORKS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/frameworks $(PYTEST_ARGS)

bench: $(READY)
	$(BIN)/python benchmarks/run.py

# N random training steps: an hour or two on two cores for the default. LOWERING=inductor: shorter steps, 10 s each.
fuzz: $(READY)
	$(BIN)/python tests/fuzz $(N) --lowering $(LOWERING)

models: $(READY)
	$(BIN)/python tests/models --write docs/coverage_models.md

oracle: $(READY)
	$(BIN)/python -m accumcompile.oracle --samples 3 --choices 4 --write docs/coverage_ops.md

# Types are checked on an installed copy, the only place where passes/ is accumcompile.passes.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(PIP) install --no-deps --target build/installed .
	cd build/installed && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p accumcompile

# A fresh build folder, or modules deleted since the last build would ship.
wheel: $(READY)
	rm -rf build dist
	$(PIP) wheel --no-deps --wheel-dir dist .

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
