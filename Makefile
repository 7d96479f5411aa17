# Two commands do it all: `make quickstart` runs the main job on generated sample data, `make test` proves the code.
# Both set up .venv first; set-up that is up to date costs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV_VERSION := 0.13.9

.PHONY: setup quickstart test lint constraints clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt constraints-detectron2.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "make: expected Python 3.11 or 3.12, found %d.%d; name another with PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --constraint constraints-detectron2.txt \
		--editable '.[mmseg,mmdet,mmpretrain,timm]' --group detectron2 --group dev
	@touch $@

quickstart: $(READY)
	$(BIN)/moco-transfer run quickstart

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Pins anew what pyproject.toml asks for, for both Python versions.
constraints: $(READY)
	$(BIN)/uv pip compile pyproject.toml --extra mmseg --extra mmdet --extra mmpretrain --extra timm --group detectron2 --group dev --universal --python-version 3.11 \
		--no-header --quiet --upgrade --output-file constraints.txt

clean:
	rm -rf $(VENV)
