# `make demo` and `make test` need only Python 3.11 or newer and make. Versions are pinned in constraints.txt.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo live test lint docs benchmark-learning clean

demo: .venv/installed
	$(BIN)/python tools/demo.py

# After make demo: its model reads its generated signer live, on a page that opens in the browser. Ctrl-C ends it.
live: .venv/installed-serve
	$(BIN)/python tools/live.py

# In the order of tests/conftest.py, the slow files first; otherwise files of few tests would come last.
test: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests

benchmark-learning: .venv/installed-test
	$(BIN)/python tools/benchmark.py learning

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

# The site, in site/. A broken link, a missing anchor and a public name without a docstring are errors.
docs: .venv/installed-docs
	$(BIN)/ruff check --select D101,D102,D103 slt_jax convert
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

.venv/bin/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "slt_jax needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-serve: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[serve]"
	touch $@

.venv/installed-test: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

.venv/installed-docs: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf .venv runs site
