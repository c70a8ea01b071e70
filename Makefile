# make demo     installs what is needed and runs KeepLoRA on the embedded stream
# make test     installs what is needed and runs the tests (make slow: those that take minutes)
# make fuzz     ten times as many random inputs, and other ones every time
# make cluster  the tests on a real SLURM, which is installed and started for them (root, Debian)
# make browser  the tests of the page in a headless Chromium, which is installed for them (root, Debian)
# make latex    the tables of a paper in a LaTeX, which is installed for them (root, Debian)
# make cuda     the tests on an NVIDIA GPU of this machine
# make lint     style, types, directions of imports, the scripts of the page (needs npm)
# make docs     the pages as a site with a search, in site/; a broken link stops it
# make lock     new versions of all packages (needs uv)
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# Threads without work sleep instead of spinning: on shared cores this is several times faster. They spin for some
# microseconds first, which small operations on idle cores gain from.
export OMP_WAIT_POLICY ?= passive
export GOMP_SPINCOUNT ?= 10000

# Tests start many processes: what Python has compiled is kept for the next ones.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: demo test fuzz slow cluster browser latex cuda lint lint-js docs format lock clean

# Two epochs a task instead of five, and batches that fit a processor's cache: done in two and a half minutes.
demo: $(VENV)/.installed
	$(BIN)/python -m bench run method=keeplora train.epochs=2 evaluate.batch_size=64

# A worker for every core, each with one thread.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --dist worksteal

fuzz: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 FUZZ=10 FUZZ_FRESH=1 $(BIN)/python -m pytest -q -n logical tests/test_fuzz_*.py

# The tests of a file share what takes minutes to make, so a worker has whole files.
slow: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --dist loadfile -m slow

cluster: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m cluster tests/cluster

browser: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m browser tests/browser

latex: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m latex tests/latex

cuda: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 4 -m cuda tests/cuda

lint: $(VENV)/.installed-test lint-js
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

lint-js: node_modules/.installed
	node_modules/.bin/biome check --error-on-warnings
	node_modules/.bin/tsc

docs: $(VENV)/.installed-test
	$(BIN)/properdocs build --quiet -f mkdocs.yml
	@echo 'The site is in site/: open site/index.html, or for its search run "$(BIN)/python -m http.server -d site"'

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("keeplora-bench needs Python 3.10 or newer: make PYTHON=python3.11" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)

# Every package with its hash, for all Pythons and systems: what is installed is what was tested. The project itself
# comes last, without looking anything up.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml requirements.lock
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-build-isolation -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.lock
	$(INSTALL) --require-hashes -r requirements-test.lock
	touch $@

# The pins of the tests are those of the demo, and more.
LOCK = uv pip compile pyproject.toml --universal --python-version 3.10 --generate-hashes --no-annotate --no-header --quiet

lock:
	$(LOCK) --upgrade --extra build -o requirements.lock
	$(LOCK) --extra build --extra docs --extra test -c requirements.lock -o requirements-test.lock

node_modules/.installed: package.json package-lock.json
	@command -v npm >/dev/null || { echo 'make lint needs Node.js with npm to check the scripts of the page: install them and run it again' >&2; exit 1; }
	npm ci --no-audit --no-fund --loglevel=error
	touch $@

clean:
	rm -rf $(VENV) build site node_modules *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
