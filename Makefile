# Two commands on a fresh machine: `make demo` opens the explorer on the demo atlas, `make test` runs the tests.

PYTHON ?= python3
BIN := .venv/bin
ATLAS := atlas/demo

.PHONY: demo atlas test lint format clean

demo: atlas
	$(BIN)/neurolab explore $(ATLAS)

atlas: $(ATLAS)/manifest.json $(ATLAS)/pictures.parquet

$(ATLAS)/manifest.json: | .venv/installed
	$(BIN)/neurolab build --model pocket --source demo --site layer3.1 --site layer4.1 --coactivation 512 --out $(ATLAS)

$(ATLAS)/pictures.parquet: | $(ATLAS)/manifest.json
	$(BIN)/neurolab render pocket --atlas $(ATLAS) --count 24 --steps 160

test: .venv/installed-dev
	$(BIN)/python -m pytest $(PYTEST)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv $(ATLAS)
