# Every task of this repository. `make help` lists them; the text after ## is what it shows.

PYTHON ?= python3
VENV := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup

help: ## show this list
	@echo "Sluice: make <target>"
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

setup: ## make .venv with every pinned package and this repository's members (does nothing when up to date)
	@$(PYTHON) scripts/setup.py
