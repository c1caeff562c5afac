# Two commands: `make demo` runs the main job on the embedded sample with one local Ray, `make test` runs the suite.
# Both make .venv first, which is quick when nothing changed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
STAMP := $(VENV)/.installed

export RAY_USAGE_STATS_ENABLED := 0
export DVC_NO_ANALYTICS := 1

.PHONY: demo test check clean

demo: $(STAMP)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/limbeck ray -- dvc repro
	$(BIN)/limbeck results

test: $(STAMP) check
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadgroup

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "limbeck needs Python 3.11 or newer; make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,test]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) data .limbeck
