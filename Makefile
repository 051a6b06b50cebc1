# The same commands for people and for CI. Each of them sets up what it needs: Python 3.11+, pip and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-slow check format bench lock clean

setup: $(VENV)/.complete

$(VENV)/.complete: requirements-dev.lock
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements-dev.lock
	touch $@

demo: setup
	$(BIN)/python -m jobs.sample --output demo/sample
	@echo 'The transfer model starts from the CNN of this very run (saved:), since ImageNet weights would need a network.' >&2
	$(BIN)/python -m jobs.pipeline --config jobs/recipes/demo.yaml

# In the order of the folders: long tests, and those that share a Ray, come first, and the short ones fill up both processes.
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test: setup
	$(PYTEST) -m "not slow"

# What takes ten seconds or more by itself, needs several workers or nodes, a cloud, or a network of others: CI runs it too.
test-slow: setup
	$(PYTEST) -m slow

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m cluster.configure --check
	$(BIN)/python -m cluster.check
	for script in cluster/*.sh; do bash -n "$$script" || exit 1; done
	$(BIN)/python -m pytest --quiet tests/unit/test_kuberay.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m tests.benchmarks

# Needs uv on the PATH. The lock files hold versions and hashes only, for every platform and Python named in pyproject.toml.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --upgrade --quiet pyproject.toml --extra dev --output-file requirements-dev.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet pyproject.toml --constraint requirements-dev.lock --output-file requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet pyproject.toml --extra gpu --constraint requirements-dev.lock --output-file requirements-gpu.lock

clean:
	rm -rf $(VENV) demo
