# Every target makes .venv by itself and does nothing twice. PYTHON=python3.12 picks another interpreter; else it is the
# first that runs: a pyenv shim of a version that is not active is on the path and ends in an error.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
LOCK := tokentrial/constraints.txt
BIN := .venv/bin
READY := .venv/ready
# Two test processes with one thread each: more threads fight over the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# Where this is set, as in many containers, every worker would compile PyTorch and transformers anew: 8 s each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: pilot smoke run-10b check test test-all test-lowest test-newest lint lock bench gpu docs

pilot: $(READY)
	$(BIN)/tokentrial run pilot

smoke: $(READY)
	$(BIN)/tokentrial run smoke
	@echo "smoke only shows that everything runs; its figures mean nothing. Next: make pilot"

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

# the documentation as a site in site/; a dead link is an error
docs: $(READY)
	$(BIN)/uv pip install -q --python $(BIN)/python --group docs || $(BIN)/pip install -q --group docs
	$(BIN)/zensical build --strict --clean

# what only a GPU can show, in at most eight minutes
gpu: $(READY)
	$(BIN)/python benchmarks/gpu.py

bench: $(READY)
	for script in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/*.py)); do OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

# the versions of the lock anew, within the ranges of pyproject.toml; UPGRADE=--upgrade takes the newest
lock: $(READY)
	$(BIN)/uv pip compile -q $(UPGRADE) --universal --fork-strategy fewest --python-version 3.11 --all-extras --group dev \
	  --no-emit-index-url --no-annotate --no-header pyproject.toml -o $(LOCK)

# The fast suite on the lowest and on the newest versions that the ranges admit, each in a venv of its own. What lies in
# UV_FIND_LINKS, such as a CPU build of torch, is used.
test-lowest test-newest: test-%:
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install -q --disable-pip-version-check uv
	.venv-$*/bin/uv pip install -q --python .venv-$*/bin/python -e '.[eval,scale]' --group dev \
	  --resolution $(if $(filter lowest,$*),lowest-direct,highest)
	OMP_NUM_THREADS=1 .venv-$*/bin/pytest -n 2 --dist loadfile -m "not slow"

# Three ways, the first that works: uv with the build of torch for this machine (no CUDA where there is no NVIDIA GPU),
# uv with the build that the package index has, pip. uv knows nothing of pip's find-links, where a machine may keep a
# build of torch.
$(READY): pyproject.toml $(LOCK)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	what="-q --python $(BIN)/python -c $(LOCK) -e .[eval,scale] --group dev"; \
	links="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$$($(BIN)/pip config get global.find-links 2>/dev/null || true)}}"; \
	{ $(BIN)/pip install -q --disable-pip-version-check uv && \
	  { UV_HTTP_RETRIES=0 $(BIN)/uv pip install --torch-backend=auto $$what 2>/dev/null || \
	    UV_FIND_LINKS="$$links" $(BIN)/uv pip install $$what; }; } || \
	{ $(BIN)/pip install -q --upgrade pip && $(BIN)/pip install -q -c $(LOCK) -e '.[eval,scale]' --group dev; }
	touch $(READY)
