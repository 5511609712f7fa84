# Every target makes .venv by itself and does nothing twice. PYTHON=python3.12 picks another interpreter.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
READY := .venv/ready
# Two test processes with one thread each: more threads fight over the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# Where this is set, as in many containers, every worker would compile PyTorch and transformers anew: 8 s each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: pilot smoke run-10b check test test-all lint bench

pilot: $(READY)
	$(BIN)/tokentrial run pilot

smoke: $(READY)
	$(BIN)/tokentrial run smoke

run-10b: $(READY)
	$(BIN)/tokentrial run gpt2_10b

# seconds: what reads the code, and the tests of pure functions
check: lint
	$(PYTEST) -m "not slow" tests/arms/test_arms.py tests/statistics tests/tasks tests/test_architecture.py tests/test_store.py tests/test_trial.py

test: $(READY)
	$(PYTEST) -m "not slow"

test-all: $(READY)
	$(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	for script in benchmarks/*.py; do OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

# uv inside the venv is ten times faster than pip, but knows nothing of pip's find-links, where a machine may keep a
# CPU build of torch; pip is the fallback.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	links="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$$($(BIN)/pip config get global.find-links 2>/dev/null || true)}}"; \
	{ $(BIN)/pip install -q --disable-pip-version-check uv && \
	  UV_FIND_LINKS="$$links" $(BIN)/uv pip install -q --python $(BIN)/python -e '.[dev]'; } || \
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	touch $(READY)
