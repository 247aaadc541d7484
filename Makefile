# make demo   trains, scores and films an agent on a real Atari game (about 7 minutes on two CPU cores)
# make test   set-up, lint, types, the test suite (about half an hour)
# make docs   the pages and the API as a site in build/site
# make test-learning   several seeds, many kills and corruptions, hypothesis searching anew (at most 50 minutes)
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 0

.PHONY: setup demo lint types docs test test-fast test-learning wheel-test clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 to 3.14 is needed; say which with make PYTHON=python3.12") if not (3, 11) <= sys.version_info < (3, 15) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/python -m tools.demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/pylint --disable=all --enable=duplicate-code --min-similarity-lines=11 --ignore-imports=y --ignore-docstrings=y --score=n agents

# mypy can't follow the finder of an editable install, so it reads a tree of links that looks like the installed package
types: setup
	rm -rf build/types && mkdir -p build/types/arcturus
	for f in core/*; do ln -s "$(CURDIR)/$$f" build/types/arcturus/; done
	for d in agents envs replay scripts; do ln -s "$(CURDIR)/$$d" build/types/arcturus/; done
	for d in benchmarks tools; do ln -s "$(CURDIR)/$$d" build/types/; done
	cd build/types && $(BIN)/mypy --config-file "$(CURDIR)/pyproject.toml" -p arcturus -p benchmarks -p tools

docs: types
	$(BIN)/mkdocs build --strict --quiet

test: lint types
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not learning"

test-fast: setup
	$(BIN)/python -m pytest -n 2 -m "not learning and not slow"

test-learning: setup
	$(BIN)/python -m pytest -n 2 -m learning
	HYPOTHESIS_PROFILE=search $(BIN)/python -m pytest -n 2 -m hypothesis

# the wheel in an empty environment, used from another directory: catches a package missing from pyproject.toml
wheel-test: setup
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel . > build/wheel/log 2>&1 || (tail -20 build/wheel/log; exit 1)
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	build/wheel/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt build/wheel/*.whl
	cd / && "$(CURDIR)/build/wheel/venv/bin/train-agent" list agents
	cd / && "$(CURDIR)/build/wheel/venv/bin/train-agent" doctor --no-speed

clean:
	rm -rf $(VENV) build demo
