# make demo, make test: everything from a fresh machine with Python 3.10 to 3.13.
# make test-min: the tests with the oldest versions that pyproject.toml allows (Python 3.10 or 3.11 has wheels of them).
# make lock, make audit, make licences: pin all versions anew, look for known vulnerabilities, list the licences.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
PIP := -m pip --disable-pip-version-check install --quiet
TOOLS := $(VENV)-tools
COMPILE := $(TOOLS)/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --no-annotate --quiet

.PHONY: demo test pytest test-long test-min check-style lock audit licences clean

demo: $(VENV)/.demo
	$(BIN)/edgeres run pipelines/solar.toml
	@$(BIN)/edgeres report build/solar -o build/solar/report.html -o build/solar/report.md > /dev/null
	@echo "The report: $(CURDIR)/build/solar/report.html"

test: check-style pytest

pytest: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

test-min:
	$(MAKE) pytest VENV=$(VENV)-min CONSTRAINTS=constraints-min.txt

test-long: $(VENV)/.dev
	$(BIN)/python -m pytest

check-style: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: $(TOOLS)/.made
	$(COMPILE) --custom-compile-command 'make lock' --output-file constraints.txt
	$(COMPILE) --custom-compile-command 'make lock' --output-file constraints-min.txt --resolution lowest-direct

audit: $(TOOLS)/.made
	$(TOOLS)/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

licences: $(TOOLS)/.made $(VENV)/.dev
	$(TOOLS)/bin/pip-licenses --python $(BIN)/python --format markdown --order license

$(VENV)/.demo $(VENV)/.dev: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --constraint $(CONSTRAINTS) --editable '.[$(patsubst .%,%,$(notdir $@))]'
	@touch $@

$(TOOLS)/.made:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python $(PIP) 'pip-audit>=2.7' 'pip-licenses>=5' 'uv>=0.5'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-min $(TOOLS) build .mypy_cache .ruff_cache .pytest_cache
