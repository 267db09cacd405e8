# Two commands: `make search` runs the quickstart, `make test` the tests. Both set up .venv first, once.
# Where there is a GPU: `make test-gpu`, `make bench-gpu ARGS="--shape qwen2.5-1.5b"`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: search test test-slow test-gpu lint bench bench-gpu clean

search: $(READY)
	$(BIN)/loratune search --config config/quickstart.yaml $(ARGS)

test: $(READY) lint
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder $(ARGS)

test-slow: $(READY)
	$(BIN)/python -m pytest -m "slow" $(ARGS)

test-gpu: $(READY)
	$(BIN)/python -m pytest -m "gpu" $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks.packing $(ARGS)

bench-gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

# The pinned torch comes first: a resolver that starts without one may fetch a build with gigabytes of CUDA.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "loratune needs Python 3.11 or newer; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
