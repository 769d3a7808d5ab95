# Everything one does with Numerator. `make` alone explains itself.
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

python  := .venv/bin/python
sources := services gateway deploy tests conftest.py

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[36m%-13s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what is missing; everything below begins with it
	@deploy/setup.sh

demo: setup ## Start the platform and play the whole story on it
	@$(python) -m deploy.demo $(if $(PROFILES),--profiles $(PROFILES))

up: setup ## Start the platform: PostgreSQL, RabbitMQ, six services, gateway, sandbox network
	@$(python) -m deploy.local up

down: setup ## Stop the platform; data is kept
	@$(python) -m deploy.local down

reset: setup ## Stop the platform and delete its data
	@$(python) -m deploy.local reset

status: setup ## Show what runs, and its memory
	@$(python) -m deploy.local status

logs: setup ## Follow the logs of all programs, until Ctrl-C
	@$(python) -m deploy.local logs

# $(call suite,which,options): runs a suite; what fails among others that keep the machine busy must pass alone.
define suite
@$(python) -m pytest -q -m "$(1)" $(2) || { \
	echo "Once more, alone, what failed among others:"; \
	$(python) -m pytest -q -m "$(1)" --last-failed --last-failed-no-failures none; }
endef

test: setup ## Run the fast suites
	$(call suite,not slow,-n 3)

test-slow: setup ## Run the suites that take their time
	$(call suite,slow,-n 2)

check: proto-check lint types imports test test-slow ## Run all that CI runs

verify-story: setup ## Measure every promise of the story, and print the table
	@$(python) -m tests.verify.story

chaos: setup ## Kill, stop and poison, and count what comes of it
	@$(python) -m tests.verify.chaos

bench: setup ## Print speeds as ratios against a baseline of the same run
	@$(python) -m tests.bench.ingest

verify: verify-story ## Measure everything that is promised so far

fmt: setup ## Format Python and protos
	@.venv/bin/ruff check --quiet --select I --fix $(sources)
	@.venv/bin/ruff format $(sources)
	@$(python) -m deploy.local.buf --fix

lint: setup ## Check style and spelling
	@.venv/bin/ruff check $(sources)
	@.venv/bin/ruff format --check $(sources)
	@.venv/bin/codespell $$(git ls-files)

types: setup ## Check types, strictly
	@.venv/bin/mypy services gateway deploy

imports: setup ## Check what imports what
	@.venv/bin/lint-imports

protos: setup ## Build the stubs of protos/ anew
	@$(python) -m deploy.local.stubs

proto-check: setup ## Check protos: lint, format, no breaking change since the last release
	@$(python) -m deploy.local.buf

.PHONY: help setup demo up down reset status logs test test-slow check chaos bench verify verify-story fmt lint types imports protos proto-check
