# make install | run | test | lint | check | axe | faults | bench | tables | study | study-decoding | clean. Everything lives in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install run test lint check axe faults bench tables study study-decoding clean

install: $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Roofscope needs Python 3.11 or newer: try 'make PYTHON=python3.11 $(MAKECMDGOALS)'." >&2; exit 1; }
	@test -n "$$CXX" || command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
		{ echo "llama.cpp is compiled here, but there is no C++ compiler: install one (Debian: apt install g++)." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV). The first time this takes several minutes: llama.cpp is compiled for this CPU."
	@begun=$$(date +%s); \
		( while sleep 20 >/dev/null 2>&1; do echo "  ... after $$(( $$(date +%s) - begun )) s still installing (compiling llama.cpp is most of it)"; done ) & \
		ticker=$$!; trap 'kill $$ticker 2>/dev/null' EXIT INT TERM; \
		$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt || exit 1; \
		echo "Installed in $$(( $$(date +%s) - begun )) s."
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

run: install
	@echo "Starting the app. Its address, usually http://localhost:8501, stands below; Ctrl-C ends it."
	$(BIN)/python -m streamlit run app.py

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

check: lint test

tables:
	$(BIN)/python -m tests.bench.tables

axe: install
	$(BIN)/python -m tests.browser.axe

faults: install
	$(BIN)/python -m tests.faults

bench: install
	$(BIN)/python -m tests.bench

study: install
	$(BIN)/python -m core study ladder

study-decoding: install
	$(BIN)/python -m core study decoding
	$(BIN)/python -m core study decoding-easy

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
