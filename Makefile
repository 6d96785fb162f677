# Every target first installs what it needs (scripts/setup.sh ends at once when all is there), so
# that a fresh Debian with make and root can run any of them. Each may be run again at any time.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# A bare environment has no PATH at all, and the tools of LVM are in sbin.
export PATH := $(if $(PATH),$(PATH):)/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME ?= $(shell getent passwd "$$(id -u)" | cut -d: -f6)

BIN := .venv/bin
PACKAGES := cli csi recovery node_agent replication host cluster
SOURCES := $(PACKAGES) lab sanity benchmarks scripts tests
# Lab nodes are processes with their own memory, and tests of faults wait a lot: four at work keep
# two cores busy, and need less of them for nodes that wait than five would.
WORKERS ?= 4
# Of `make chaos`. (SECONDS is a variable of bash as well, but not one that it exports.)
SECONDS ?= 1200
SEED ?= random
VOLUMES ?= 3
PYTEST := $(BIN)/python -m pytest
# A file to a worker, and the long ones first (tests/conftest.py).
PARALLEL := -n $(WORKERS) --no-loadscope-reorder

.PHONY: help demo test unit lab sanity bench chaos lint format generate wheel clean distclean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Three lab nodes: volumes, snapshots, clones, growth, a power cut (under 3 minutes)
	@scripts/setup.sh base
	@$(BIN)/python -m lab.demo

test: ## All tests: unit, conformance, lab, faults, csi-sanity
	@scripts/setup.sh base
	@scripts/setup.sh sanity
	@$(PYTEST) $(PARALLEL) $(TESTS)

unit: ## Only the tests that need neither root nor lab nodes
	@scripts/setup.sh python
	@$(PYTEST) $(PARALLEL) tests/unit

lab: ## Only the tests in lab nodes, without csi-sanity (TESTS="-k name" selects)
	@scripts/setup.sh base
	@$(PYTEST) $(PARALLEL) tests/lab --ignore tests/lab/test_sanity.py $(TESTS)

sanity: ## csi-sanity against the real driver in lab nodes (VARIANTS="thin-mount …")
	@scripts/setup.sh base
	@scripts/setup.sh sanity
	@$(BIN)/python -m sanity $(VARIANTS)

bench: ## Speed, memory and start-up time as a table and as JSON in benchmarks/results
	@scripts/setup.sh base
	@$(BIN)/python -m benchmarks

chaos: ## Faults and changes at random on replicated volumes (SECONDS=1200 SEED=random VOLUMES=3)
	@scripts/setup.sh base
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED) --volumes $(VOLUMES)

lint: ## Style, types, layers, and that the generated code is that of the protocols
	@scripts/setup.sh python
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(PYTEST) -q tests/unit/test_protocols.py

format: ## Format the code and mend what ruff can mend
	@scripts/setup.sh python
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

generate: ## Write the protocols' Python code anew after a change in proto/
	@scripts/setup.sh python
	@$(BIN)/python scripts/generate_protocols.py

wheel: ## Build the wheel into dist/
	@scripts/setup.sh python
	@$(BIN)/python -m hatchling build -t wheel

clean: ## End a lab of the command line; remove what tests and builds have left
	@if [ -e .lab ] && [ -x $(BIN)/python ]; then $(BIN)/python -m lab down 2>/dev/null || true; fi
	@rm -rf dist .lab .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Also remove the virtual environment and the benchmarks' results
	@rm -rf .venv benchmarks/results
