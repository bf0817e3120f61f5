# agentmesh. `make run` does the main job, `make test` runs everything there is to test.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PACKAGES := $(wildcard protos/gen/python/pyproject.toml libs/*/pyproject.toml services/*/pyproject.toml clients/*/pyproject.toml)
SOURCES := libs services clients examples tests bench scripts deploy conftest.py

export PATH := $(CURDIR)/$(BIN):$(PATH)
export STRICT

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- setting up ------------------------------------------------------------------------------

.make/venv: requirements/dev.txt $(PACKAGES) scripts/bootstrap.sh
	@scripts/bootstrap.sh
	@mkdir -p .make && touch $@

.make/sandbox: .make/venv scripts/prepare_sandbox_python.py services/tool_runner/sandbox-requirements.txt
	@python scripts/prepare_sandbox_python.py
	@touch $@

.PHONY: setup
setup: .make/sandbox ## Set up everything, once
	@scripts/system_packages.sh

.PHONY: sandbox-image
sandbox-image: .make/venv ## Build the image for Docker sandboxes and give it to the engine (IMAGE_ARGS=…)
	@python scripts/sandbox_image.py $(IMAGE_ARGS)

# --- running ---------------------------------------------------------------------------------

.PHONY: run up
# Variables of .env, if it is there, for the processes of the mesh.
WITH_ENV := set -a; [ ! -f .env ] || . ./.env; set +a;

run: setup ## Start a mesh, run a real multi-agent conversation in it, show it, stop
	@$(WITH_ENV) agentmesh run --with-mesh

up: setup ## Start a mesh and keep it serving
	@$(WITH_ENV) agentmesh up

# --- testing ---------------------------------------------------------------------------------

.PHONY: test abuse check lint types charts-check soak bench
# Most of a test is waiting for processes, so three at once suit two cores. What fails in the crowd runs once more alone:
# what fails there too is broken, and what passes stands in the output of both runs.
JOBS ?= 3
test: setup check ## Run all tests (STRICT=1: install what is missing, no silent skips)
	@if [ "$(STRICT)" = 1 ] && [ "$$(id -u)" = 0 ]; then python scripts/sandbox_image.py --only-archive; fi
	@pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS) || { [ $$? = 1 ] && echo "=== once more, alone: what failed ===" && \
		pytest --last-failed --last-failed-no-failures none $(PYTEST_ARGS); }

abuse: setup ## Attack every sandbox backend of this machine; print how each attack ended
	@pytest -q -n $(JOBS) --dist worksteal services/tool_runner/tests/abuse

check: lint types protos-check charts-check ## Lint, types, contracts and charts

lint: .make/venv
	@ruff check $(SOURCES)
	@ruff format --check $(SOURCES)

types: .make/venv
	@mypy $(SOURCES)

charts-check: .make/venv
	@python scripts/helm.py check

soak: setup ## Kill parts of a busy store (PART=runtime: runtimes) for ten minutes (DURATION=seconds), then check every promise
	@python -m tests.soak $(or $(PART),store) --seconds $(or $(DURATION),600)

bench: setup ## Measure (NAME=x for one)
	@python -m bench $(NAME)

# --- contracts and locks ---------------------------------------------------------------------

.PHONY: protos protos-check protos-release lock format
protos: .make/venv ## Generate code from the contracts
	@python scripts/protos.py generate

protos-check: .make/venv ## Fail on drift, lint or breaking changes of the contracts
	@python scripts/protos.py check

protos-release: .make/venv ## Make the present contracts the baseline for breaking changes
	@python scripts/protos.py release

lock: ## Resolve dependencies afresh and write requirements/
	@scripts/lock.sh $(LOCK_ARGS)

format: .make/venv ## Format the code
	@ruff check --fix --quiet $(SOURCES) || true
	@ruff format --quiet $(SOURCES)
	@cd protos && buf format -w --path agentmesh .

.PHONY: clean
clean: ## Remove what was set up and made
	@rm -rf .venv .make .pytest_cache .mypy_cache .ruff_cache
