# Every target first installs what it needs into .venv. No key, no Docker, no network after the installation.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test coverage check up bench lock install help
.DEFAULT_GOAL := demo

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install:  ## create .venv from requirements.lock
	@$(PYTHON) tools/install.py

demo: install  ## start everything, run every job on samples, print the reports, stop everything
	@$(BIN)/parley demo

up: install  ## start everything and keep it running
	@$(BIN)/parley up

test: install  ## the whole test suite, in three processes with separate servers
	@$(BIN)/python -m pytest --numprocesses 3 --dist worksteal

coverage: install  ## the same with its line coverage; SlipCover now and then crashes a test process
	@$(BIN)/python -m slipcover --json --out .coverage.json -m pytest -p slipcover.pytest_plugin -p tests.line_coverage --numprocesses 3 --dist worksteal

check: install  ## lint, format, types, architecture
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports --no-logo

bench: install  ## the measurements in benchmarks/
	@$(BIN)/python -m benchmarks

lock:  ## resolve requirements.lock again (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-header --no-emit-index-url --quiet --output-file requirements.lock
