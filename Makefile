# `make serve` and `make test` are all that a newcomer needs; each makes .venv and installs what it uses.
PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: serve test test-slow test-isas test-neon test-sanitized test-llama-cpp clients lint bench docs clean

serve: .venv/installed
	$(BIN)/coderv2 serve --port $(PORT)

test: .venv/installed-dev
	$(BIN)/python -m pytest

# What takes minutes: live comparison with transformers, memory peaks, the programs of DeepSeek's README; and kernels and
# model once more on every other instruction set of this machine, and on PyTorch alone.
test-slow: .venv/installed-dev test-isas
	$(BIN)/python -m pytest -m slow

test-isas: .venv/installed-dev
	for isa in $$($(BIN)/python -c 'from coderv2.kernels.cpu import available; print(*available()[1:], "none")'); do \
		echo "CODERV2_ISA=$$isa" && CODERV2_ISA=$$isa $(BIN)/python -m pytest tests/kernels tests/model || exit 1; done

# The NEON kernels, cross compiled and tested under qemu; on Debian, and where something is missing as root.
test-neon: .venv/installed-dev
	tests/kernels/emulated_neon

# The kernels of this machine once more with AddressSanitizer and UndefinedBehaviorSanitizer, and their tests with these.
test-sanitized: .venv/installed-dev
	tests/kernels/sanitized

# Our GGUF files in llama.cpp, and its Python server behind our door. Built from source for this: ten minutes, once.
test-llama-cpp: .venv/installed-llama-cpp
	$(BIN)/python -m pytest -m slow tests/model/test_gguf_llama_cpp.py tests/server/outside/test_llama_cpp_server.py

# Programs that talk to the server, each in an environment of its own; slow tests use them where they are.
clients: .venv-clients/installed .venv-aider/installed

.venv-clients/installed: tests/server/outside/clients.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv-aider/installed: tests/server/outside/aider.txt
	$(PYTHON) -m venv .venv-aider
	.venv-aider/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks

docs: .venv/installed-dev
	$(BIN)/python -m coderv2.cli.pages docs/cli

clean:
	rm -rf .venv .venv-clients .venv-aider build dist *.egg-info

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

# Neither its command-line programs nor its vision models are needed; its server is, behind our door.
.venv/installed-llama-cpp: .venv/installed-dev
	CMAKE_ARGS="-DLLAVA_BUILD=OFF" $(PIP) llama-cpp-python sse-starlette starlette-context pydantic-settings
	@touch $@
