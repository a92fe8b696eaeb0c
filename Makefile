# Everything runs in .venv inside this checkout, whatever environment is active.
.DEFAULT_GOAL := help
.PHONY: help setup test test-slow test-configs test-openmmlab wheel test-wheel release docs demo lint format clean
MAKEFLAGS += --no-print-directory

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

VENV := .venv
BIN := $(VENV)/bin
# Written last and holding this checkout's path: an environment that is half built, whose Python is
# gone, or that was built elsewhere has no valid stamp and is built again.
STAMP := $(VENV)/.built
ifneq ($(shell $(BIN)/python -c 'import pip' 2>/dev/null && cat $(STAMP) 2>/dev/null),$(CURDIR))
$(shell rm -f $(STAMP))
endif
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))
# The first of these that runs and is supported; `make setup PYTHON=...` names another.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.10 python3.13 python3; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && command -v $$p && break; done)
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH CONDA_PREFIX
JOBS ?= 2
export OMP_NUM_THREADS ?= 2
export MKL_NUM_THREADS ?= $(OMP_NUM_THREADS)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: $(STAMP)  ## build .venv with all that development needs

# Without a stamp the environment is made anew; with one, setup.cfg asks for something else.
$(STAMP): setup.cfg pyproject.toml
	@if [[ -e $@ ]]; then rm $@; else \
		'$(PYTHON)' -c '$(SUPPORTED)' 2>/dev/null || { \
			echo 'Python is "$(PYTHON)", allowed is 3.10 to 3.13 with venv and ensurepip;' \
				'use make setup PYTHON=/path/to/python3.12' >&2; exit 1; }; \
		echo '[1/3] $(VENV) with $(PYTHON)'; \
		rm -rf $(VENV) && '$(PYTHON)' -m venv $(VENV) && \
		$(BIN)/python -m pip install -q --upgrade pip setuptools wheel; fi
	@echo '[2/3] packages (several minutes at first: torch is large)'
	@$(BIN)/python -m pip install -e '.[onedl,dev]' | sed -un 's/^Collecting \([^ ]*\).*/  \1/p; /^Installing/s/:.*//p'
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { \
		echo '  opencv-python-headless in place of opencv-python, which finds no X libraries here'; \
		version=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("opencv-python"))') && \
		$(BIN)/python -m pip uninstall -qy opencv-python opencv-python-headless && \
		$(BIN)/python -m pip install -q "opencv-python-headless==$$version"; }
	@echo '[3/3] check'
	@$(BIN)/python -W ignore -c 'import torch, mmseg.models; print("torch", torch.__version__, "mmseg", mmseg.__version__)'
	@echo '$(CURDIR)' > $@

# Two processes with one thread each are twice as fast as one with two.
test: setup  ## run the tests
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile $(ARGS)

test-slow: setup  ## run the tests that take half a minute and more each
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist load -m slow $(ARGS)

# The original MMSegmentation (docs/stacks.md). Its mmcv exists as source only; once compiled, .whl keeps it.
OPENMMLAB := .venv-openmmlab
OPENMMLAB_PIP := $(OPENMMLAB)/bin/python -m pip
OPENMMLAB_SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 13))
OPENMMLAB_PYTHON ?= $(shell for p in python3.11 python3.10 python3.12; do \
	$$p -c '$(OPENMMLAB_SUPPORTED)' 2>/dev/null && command -v $$p && break; done)

test-openmmlab: $(OPENMMLAB)/.built  ## run the tests on the original MMSegmentation, for which mmcv is compiled
	@$(OPENMMLAB)/bin/python -m pytest -q $(ARGS)

$(OPENMMLAB)/.built: setup.cfg pyproject.toml
	@'$(OPENMMLAB_PYTHON)' -c '$(OPENMMLAB_SUPPORTED)' 2>/dev/null || { \
		echo 'Python is "$(OPENMMLAB_PYTHON)", allowed is 3.10 to 3.12 with venv and ensurepip;' \
			'use make test-openmmlab OPENMMLAB_PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo '[1/3] $(OPENMMLAB) with $(OPENMMLAB_PYTHON): torch 2.5 (large)'
	@rm -rf $(OPENMMLAB) && '$(OPENMMLAB_PYTHON)' -m venv $(OPENMMLAB)
	@$(OPENMMLAB_PIP) install -q --upgrade pip 'setuptools<80' wheel
	@$(OPENMMLAB_PIP) install -q 'torch==2.5.1' 'torchvision==0.20.1' 'numpy<2' ninja psutil
	@echo '[2/3] mmcv, compiled unless .whl has it (10 to 20 minutes)'
	@MMCV_WITH_OPS=1 FORCE_CUDA=0 \
		$(OPENMMLAB_PIP) wheel -q --no-build-isolation --no-deps --find-links .whl -w .whl 'mmcv==2.1.0'
	@echo '[3/3] the other packages'
	@$(OPENMMLAB_PIP) install -q --find-links .whl -e '.[openmmlab,test]'
	@touch $@

test-configs: setup  ## train, evaluate, save and load every config for a step, with its whole network
	@$(BIN)/python -m pytest -q -m configs $(ARGS)

wheel: setup  ## build the source distribution and the wheel in dist, and check what a package index would show
	@rm -rf build dist
	@$(BIN)/python -m build --outdir dist . >/dev/null
	@$(BIN)/twine check --strict dist/*

test-wheel: wheel  ## install the wheel into an empty environment and run its commands there (7 GB, removed after)
	@tests/try_wheel.sh $(BIN)/python dist/*.whl

# Uploads nothing: that is `.venv/bin/twine upload dist/*`, by hand.
release: wheel  ## check that a tagged commit is ready to be published: version, changelog, wheel
	@version=$$($(BIN)/python -c 'exec(open("mmseg_derprop/version.py").read()); print(__version__)'); \
		git diff --quiet HEAD || { echo 'The checkout must have no changes: commit them.' >&2; exit 1; }; \
		[[ $$(git describe --tags --exact-match 2>/dev/null) == v$$version ]] || { \
			echo "The commit must have the tag v$$version: git tag v$$version" >&2; exit 1; }; \
		grep -q "^## $$version (20" CHANGELOG.md || { \
			echo "CHANGELOG.md must have the heading \"## $$version (date)\", but has none." >&2; exit 1; }
	@$(MAKE) test-wheel

docs: setup  ## build the documentation site in site; broken links are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site

demo: setup  ## train on the embedded data set and compare methods
	@$(BIN)/python tools/demo.py $(ARGS)

lint: setup  ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup  ## rewrite files in the project's style
	@$(BIN)/ruff check --fix --select I .
	@$(BIN)/ruff format .

clean:  ## remove the environments and all caches; keeps data and work_dirs
	@rm -rf $(VENV) $(OPENMMLAB) .whl build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
