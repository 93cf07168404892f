# make demo, make test: everything from a fresh machine with Python 3.10 to 3.13.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test test-long check-style clean

demo: $(VENV)/.demo
	$(BIN)/edgeres run pipelines/solar.toml
	@$(BIN)/edgeres report build/solar -o build/solar/report.html -o build/solar/report.md > /dev/null
	@echo "The report: $(CURDIR)/build/solar/report.html"

test: check-style
	$(BIN)/python -m pytest -m "not long"

test-long: $(VENV)/.dev
	$(BIN)/python -m pytest

check-style: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.demo $(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[$(patsubst .%,%,$(notdir $@))]'
	@touch $@

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache
