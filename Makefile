# Every task of this repository. `make help` lists them; the text after ## is what it shows.
#
#   make setup PYTHON=python3.13    another interpreter (3.11 or newer)
#   make test ARGS="-k resume -x"   what follows is handed to pytest, or to the tool of the target

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

SOURCES := $(wildcard libs/kit/sluice_kit clients/python/sluice_client services/*/sluice_* cli/sluice_cli bench scripts)
TESTS := $(wildcard conftest.py libs/*/tests services/*/tests clients/*/tests cli/tests bench/tests tests)

.DEFAULT_GOAL := help
.PHONY: help setup gen lock fmt lint types test test-peers clients test-clients check images-check manifests chaos demo bench bench-retrieval bench-soak clean release

help: ## show this list
	@echo "Sluice: make <target>"
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  %-10s %s\n", $$1, $$2 }'

setup: ## make .venv with every pinned package and the members (does nothing when up to date)
	@$(PYTHON) scripts/setup.py

gen: setup ## generate gen/ from protos/, and the reference tables in docs/
	@$(BIN)/python scripts/gen.py $(ARGS)
	@$(BIN)/python scripts/docs.py

lock: setup ## compile requirements/*.lock; ARGS=--upgrade takes newer versions (needs the network)
	@$(BIN)/python scripts/lock.py $(ARGS)

fmt: setup ## format the code and fix what can be fixed
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .
	@echo "fmt: done"

lint: setup ## formatting, ruff, and buf lint of the contracts
	@echo "lint: ruff format --check"
	@$(BIN)/ruff format --check --quiet . || { echo "lint: run \`make fmt\`"; exit 1; }
	@echo "lint: ruff check"
	@$(BIN)/ruff check .
	@$(BIN)/python scripts/contracts.py lint

types: setup ## mypy --strict over everything that ships, then over the tests
	@echo "types: sources"
	@$(BIN)/mypy $(SOURCES)
	@echo "types: tests"
	@$(BIN)/mypy --config-file mypy-tests.ini $(TESTS)

test: setup ## every test; ARGS="-k word" chooses
	@echo "test: pytest"
	@$(BIN)/python -m pytest $(ARGS)

test-peers: setup ## the adapters against an independent mock of the vendors (needs Node and npm)
	@$(BIN)/python scripts/peers.py $(ARGS)

clients: setup ## generate and build the clients in Go, TypeScript and Java, where their tools are installed
	@$(BIN)/python scripts/clients.py $(ARGS)

test-clients: setup ## every client through the conformance suite, and tools such as grpcurl; ARGS="go java" chooses
	@$(BIN)/python -m tests.conformance $(ARGS)

check: setup ## what CI runs: generated code and locks current, lint, types, compatibility, every test
	@$(PYTHON) scripts/setup.py --with minilm
	@echo "check: generated code"
	@$(BIN)/python scripts/gen.py --check
	@$(BIN)/python scripts/docs.py --check
	@echo "check: locks"
	@$(BIN)/python scripts/lock.py --check
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@echo "check: contracts against the last release"
	@$(BIN)/python scripts/contracts.py breaking
	@$(BIN)/python scripts/servers.py --fetch
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory test-clients ARGS=--cases
	@echo "check: all good"

images-check: setup ## build every image's closure as deploy/docker does, and start each (needs the network)
	@SLUICE_IMAGES=all $(BIN)/python -m pytest tests/deploy/test_images.py $(ARGS)

manifests: setup ## render deploy/k8s/rendered/ from the overlays (needs kustomize, kubectl or Go)
	@$(BIN)/python scripts/manifests.py

chaos: setup ## kill and break things under load, and check every invariant; ARGS="--responses 1000 --seed 7"
	@$(BIN)/python -m tests.chaos $(ARGS)

demo: setup ## start a mesh, index this repository, ask about it, stop; no key and no server needed
	@$(BIN)/python scripts/demo.py $(ARGS)

bench-retrieval: setup ## measure search: quality against baselines, and speed; ARGS=--help lists the parts
	@$(PYTHON) scripts/setup.py --with minilm
	@$(BIN)/python -m bench.retrieval $(ARGS)

bench-soak: setup ## use a mesh in every way for a while, and say what it holds more of; ARGS=--help
	@$(BIN)/python -m bench.soak $(ARGS)

bench: setup ## measure streaming against a mock upstream; ARGS=--help lists the scenarios
	@$(BIN)/python -m bench $(ARGS)

clean: ## remove the environment, caches and what was built
	rm -rf clients/go/bin clients/go/gen clients/java/target clients/typescript/dist clients/typescript/gen
	rm -rf clients/typescript/node_modules
	rm -rf .venv .setup.lock build dist .mypy_cache .mypy_cache_tests .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

release: setup ## prepare a release: make release VERSION=0.1.0
	@test -n "$(VERSION)" || { echo "release: say which: make release VERSION=0.1.0"; exit 2; }
	@$(MAKE) --no-print-directory check
	@$(BIN)/python scripts/release.py $(VERSION)
