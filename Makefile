# Everything runs in .venv, which is made on the first call and again when the requirements change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SWIFT_INSTALLED := .venv-swift/.installed
# pytest's arguments: make test TESTS=tests/unit
TESTS ?=

.DEFAULT_GOAL := help
.PHONY: help demo families up test check clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Finetune a model of handwritten digits through the whole service, on this machine
	$(BIN)/python -m examples.digits.demo

families: $(INSTALLED) ## The same with small models of all families: EDM and EDM2 as U-Nets, VAR
	$(BIN)/python -m examples.digits.families

up: $(INSTALLED) ## Start the whole service on this machine; Ctrl-C stops it
	$(BIN)/python -m deploy.local up

test: $(INSTALLED) $(SWIFT_INSTALLED) ## Run all tests, with real servers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(TESTS)

check: $(INSTALLED) ## Lint, check formatting, types, imports between parts, and the compose file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if docker compose version >/dev/null 2>&1; \
	then sed 's/=$$/=secret/' .env.example | docker compose --env-file /dev/stdin --profile gpus-8 config --quiet; \
	else echo "docker compose is not here; tests/unit/deploy reads the file instead"; fi

clean: ## Remove environments and caches
	rm -rf $(VENV) .venv-swift build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(SWIFT_INSTALLED): tests/servers/swift-constraints.txt
	$(PYTHON) -m venv .venv-swift
	.venv-swift/bin/pip install --quiet --constraint tests/servers/swift-constraints.txt swift
	touch $@
