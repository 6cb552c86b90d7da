# Everything a fresh machine needs, from Python 3.11 or 3.12, git, make and a network.
# Each step leaves a stamp in the environment, so that a step already done costs nothing.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PROTOS := $(shell find proto -name '*.proto' 2>/dev/null | LC_ALL=C sort)
PB2 := $(PROTOS:proto/%.proto=%_pb2.py)

# The first that runs and is 3.11 or 3.12; PYTHON=... overrides.
PYTHON ?= $(shell for python in python3 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	2>/dev/null && echo "$$python" && break; done)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' \
		| while IFS='|' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

.PHONY: setup
setup: $(STAMPS)/project $(STAMPS)/proto $(STAMPS)/jars ## Build .venv with the spine and all it needs

.PHONY: demo
demo: setup ## Run the main job on real half-hourly data, from nothing to an audited answer
	@$(BIN)/spine demo

.PHONY: up
up: setup ## Run the broker and every process of the spine until Ctrl-C
	@$(BIN)/spine up

.PHONY: check
check: setup ## Lint, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: test
test: export PYTHONDONTWRITEBYTECODE := # or each of hundreds of processes compiles the spine anew
test: check ## All checks and all tests; what continuous integration runs
	$(BIN)/python -m tests.parts
	$(BIN)/python -m loadtest small

.PHONY: mutants
mutants: setup ## Break each safety-bearing line in a copy, and see a test fail
	@$(BIN)/python -m tests.mutants.run

.PHONY: rights
rights: setup ## Ask the policy and an independent calculator a million questions
	SPINE_TEST_QUESTIONS=1000000 $(BIN)/pytest --timeout 3600 tests/rights

.PHONY: load
load: setup ## Load a small country: every answer checked, gates are ratios; about two minutes
	$(BIN)/python -m loadtest small

.PHONY: load-gb
load-gb: setup $(VENV)/peers/stamp ## Every load scenario at its full size; writes loadtest/RESULTS.md
	$(BIN)/python -m loadtest full

# What the peers pin would hold back what the spine depends on: an environment of their own.
$(VENV)/peers/stamp: loadtest/peers.txt $(STAMPS)/python
	@"$(PYTHON)" -m venv $(VENV)/peers
	@$(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement loadtest/peers.txt
	@touch $@

.PHONY: fault
fault: setup ## Kill, freeze, cut and race everything, on one and three brokers (SEED=n repeats a run)
	@$(BIN)/python -m tests.fault.run $(SEED)

.PHONY: lock
lock: setup ## Pin the newest dependencies and Kafka's jars anew
	@tools="$$(mktemp -d)"; trap 'rm -rf "$$tools"' EXIT; \
	$(BIN)/python -m venv "$$tools"; \
	"$$tools/bin/pip" install --quiet --disable-pip-version-check uv; \
	"$$tools/bin/uv" pip compile --quiet --no-config --universal --fork-strategy fewest \
		--python-version 3.11 --generate-hashes --no-header --upgrade --extra dev \
		--output-file requirements.lock pyproject.toml
	@$(BIN)/python -m spine.jars lock

.PHONY: clean
clean: ## Remove what setup built; a data folder (.spine) is left alone
	rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find spine domains loadtest tests -name __pycache__ -type d -prune -exec rm -rf {} +
	find spine \( -name '*_pb2.py' -o -name '*_pb2.pyi' -o -name '*_pb2_grpc.py' \) -delete

$(STAMPS)/python:
	@[[ -n "$(PYTHON)" ]] || { echo "The spine needs Python 3.11 or 3.12, and none was found" \
		"as python3, python3.12 or python3.11. Install one, or name it: make setup PYTHON=..." >&2; \
		exit 1; }
	@echo "Building $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dependencies: requirements.lock $(STAMPS)/python
	@echo "Installing the pinned dependencies"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		--requirement requirements.lock
	@touch $@

$(STAMPS)/project: pyproject.toml $(STAMPS)/dependencies
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --no-index --editable .
	@touch $@

# One call makes all of it; a generated file that someone deleted is made again.
$(STAMPS)/proto: $(PROTOS) $(STAMPS)/dependencies $(if $(filter-out $(wildcard $(PB2)),$(PB2)),generate)
	@if [[ -n "$(PROTOS)" ]]; then $(BIN)/python -m grpc_tools.protoc --proto_path=proto \
		--python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS); fi
	@touch $@

.PHONY: generate
generate:

$(STAMPS)/jars: spine/kafka-jars.sha256 spine/jars.py $(STAMPS)/project
	@$(BIN)/python -m spine.jars
	@touch $@
