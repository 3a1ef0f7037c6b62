# `make help` lists the targets. Everything made here stays in .venv, build and out, and in the download cache.
PYTHON ?= python3
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
export PATH := $(CURDIR)/.venv/bin:$(PATH)

PY := .venv/bin/python
# The standard hook of an editable install, called directly: unlike pip, it shows the compiler's progress.
BUILD_EDITABLE := from scikit_build_core.build import build_editable; build_editable('build/wheel', \
	{'build-dir': 'build/py', 'cmake.define.MELT_BUILD_TESTS': 'ON', 'cmake.build-type': 'Release', \
	'cmake.define.MELT_WERROR': '$(if $(CI),ON,OFF)'})
BUILD_INPUTS := CMakeLists.txt pyproject.toml tools/third_party.py tools/unified_diff.py \
	$(shell find cpp cmake third_party -type f)
# Only your own llama.cpp tree can change without one of these files changing.
FORCE := $(if $(MELT_LLAMA_CPP_DIR),force)

.PHONY: help demo test setup build lint bench cross clean force
help:  ## list these targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo: setup  ## fetch a small model, profile it, print its ops, write out/demo.html
	@mkdir -p out
	.venv/bin/melt profile demo --chat --prompt "Explain photosynthesis in one sentence." --levels tokens,ops \
		-o out/demo.melt
	.venv/bin/melt ops out/demo.melt
	.venv/bin/melt report out/demo.melt -o out/demo.html

test: setup  ## run the C++ and the Python tests
	ctest --test-dir build/py --output-on-failure
	@# Two at a time: the tests of a file in one process, files in their order, in which the longest come first.
	@# A test that ends its process ends the run, and is named: pytest-xdist would start another process and wait for ever.
	$(PY) -m pytest -m "not alone and not vm" -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
	$(PY) -m pytest -m alone

setup: build/.installed  ## make .venv with all tools, compile, install editable; does only what is missing

build: setup  ## the same as setup, by the name one looks for after an edit

lint: setup  ## check style, types and that the stubs match the compiled module
	ruff check .
	ruff format --check .
	mypy
	find cpp benchmarks -name '*.h' -o -name '*.cpp' | xargs clang-format --dry-run -Werror
	$(PY) tools/stubs.py --check

bench: setup  ## run every benchmarks/bench_*.py
	@missed=; for script in benchmarks/bench_*.py; do \
	  echo "== $$script"; $(PY) "$$script" || missed="$$missed $$script"; \
	done; test -z "$$missed" || { echo "missed or failed:$$missed" >&2; exit 1; }

cross: .venv/.tools  ## build for another machine: make cross PRESET=android-static (or jetson, linux-arm64, wheel, ...)
	@test -n "$(PRESET)" || { echo "name one: make cross PRESET=android-static" >&2; exit 2; }
	@$(PY) tools/cross.py $(PRESET)

clean:  ## remove .venv, build and out; downloads stay in the cache
	rm -rf .venv build out

build/.installed: .venv/.tools $(BUILD_INPUTS) $(FORCE)
	@command -v c++ >/dev/null || { echo "no C++ compiler: install g++ or clang first" >&2; exit 1; }
	@echo "== compiling (the first time llama.cpp too: some minutes)"
	@rm -rf build/wheel && mkdir -p build/wheel
	@$(PY) -c "$(BUILD_EDITABLE)"
	@$(PY) -m pip install --quiet --no-deps --force-reinstall build/wheel/*.whl
	@$(PY) -m pip install --quiet build/wheel/*.whl  # now what it depends on, where that is missing
	@touch $@

.venv/.tools: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "need Python 3.10 or newer; name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv .venv \
	  || { rm -rf .venv; echo "no venv module: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "== installing the tools into .venv"
	@$(PY) -m pip install --quiet --upgrade 'pip>=25.1'
	@$(PY) -m pip install --group dev
	@touch $@
