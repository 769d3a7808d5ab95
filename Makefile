# Everything one does with Numerator. `make` alone explains itself.
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
unexport PYTHONDONTWRITEBYTECODE # or every process would compile every module anew

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
	$(call suite,not slow and not compose,-n 3)

test-slow: setup ## Run the suites that take their time
	$(call suite,slow and not compose,-n 3)

test-compose: setup ## Run the suite of the containers; needs a Docker engine
	@docker info >/dev/null 2>&1 || { echo "No Docker engine answers (docker info): start one, or set DOCKER_HOST."; exit 1; }
	@$(python) -m pytest tests/compose -q -m "compose and not slow"

test-runbook: setup ## Type every command of docs/runbook.md into a stack of containers
	@$(python) -m pytest tests/compose/test_runbook.py -q

check: proto-check lint types imports test test-slow ## Run all that CI runs; the containers' suite only where an engine is
	@if docker info >/dev/null 2>&1; then $(MAKE) test-compose; else \
	  echo "NOT RUN: tests/compose, because no Docker engine answers. CI brings one up."; fi

verify-story: setup ## Measure every promise of the story, and print the table
	@$(python) -m tests.verify.story

verify-containers: setup ## Measure every promise of the stack in containers, and print the table; needs a Docker engine
	@$(python) -m tests.verify.containers

verify-rollout: setup ## Measure every promise of staged rollouts, and print the table; SIZE=full takes more, and longer
	@$(python) -m tests.verify.rollout $(foreach row,$(ROWS),--only $(row))

verify-accounts: setup ## Measure every promise of accounts, and print the table
	@$(python) -m tests.verify.accounts $(foreach row,$(ROWS),--only $(row))

chaos: setup ## Kill, stop and poison, and count what comes of it
	@$(python) -m tests.verify.chaos

bench: setup ## Print speeds as ratios against a baseline of the same run
	@$(python) -m tests.bench.ingest

verify: verify-story verify-containers verify-rollout verify-accounts ## Measure everything that is promised so far

image: setup ## Build the images; OFFLINE=1 without network, VERSION=… names the version
	@$(python) -m deploy.compose build $(if $(OFFLINE),--offline) $(if $(VERSION),--version $(VERSION))

compose-up: image ## Start the platform in containers, with Prometheus, dashboards, traces and the sandbox network
	@$(python) -m deploy.compose up

compose-demo: compose-up ## Play the whole story on the platform in containers
	@$(python) -m deploy.compose story

compose-down: setup ## Stop the containers; data is kept in volumes
	@$(python) -m deploy.compose down

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

.PHONY: help setup demo up down reset status logs test test-slow test-compose test-runbook check image compose-up compose-demo compose-down chaos bench verify verify-story verify-containers verify-rollout verify-accounts fmt lint types imports protos proto-check
