# `make serve` and `make test` are all that a newcomer needs; each makes .venv and installs what it uses.
PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: serve test test-slow test-llama-cpp lint bench docs clean

serve: .venv/installed
	$(BIN)/coderv2 serve --port $(PORT)

test: .venv/installed-dev
	$(BIN)/python -m pytest

# What takes minutes: live comparison with transformers, memory peaks, the programs of DeepSeek's README.
test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

# Our GGUF files in llama.cpp. It is built from source for this: ten minutes and more, once.
test-llama-cpp: .venv/installed-llama-cpp
	$(BIN)/python -m pytest -m slow tests/model/test_gguf_llama_cpp.py

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks

docs: .venv/installed-dev
	$(BIN)/python -m coderv2.cli.pages docs/cli

clean:
	rm -rf .venv build dist *.egg-info

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "coderv2 needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	@touch $@

KERNELS := CMakeLists.txt $(wildcard coderv2/kernels/cpu/*.cpp coderv2/kernels/cpu/*.h)

.venv/installed: .venv/python pyproject.toml constraints.txt $(KERNELS)
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable ".[dev]"
	@touch $@

# Neither its command-line programs nor its vision models are needed.
.venv/installed-llama-cpp: .venv/installed-dev
	CMAKE_ARGS="-DLLAVA_BUILD=OFF" $(PIP) llama-cpp-python
	@touch $@
