# Everything that one does with this project; `make help` lists it. Each target sets up what it needs first.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PY := .venv/bin/python
PYTHON ?= $(shell for name in python3.11 python3 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && command -v "$$name" && break; done)
PACKAGES := $(patsubst %/__init__.py,%,$(wildcard */__init__.py))
FAST := not sim and not ray and not gpu and not browser and not realtime and not whole and not slow
# One thread each: tests and actors are small, and several processes share the cores.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help setup demo robot-demo test check fmt bench doctor clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install Python packages into .venv, and a Vulkan driver if the machine has none; instant when done
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 on PATH; install it (Debian 12: apt-get install python3 python3-venv)" \
		"or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m scripts.set_up

demo: setup ## a policy practises in SIMPLER and gets better: learning curve, table, video (15 minutes on 2 cores)
	@$(PY) -m learners.recap --env simpler_google --config demo --run runs/demo

robot-demo: setup ## an emulated arm, supervisor and console; ROBOT=simulated: the tiny policy at a simulated one; Ctrl-C ends it
	@$(PY) -m console.demo --robot $(or $(ROBOT),realman)

test: setup ## all tests but those marked slow: simulation and Ray included
	@$(PY) -m pytest -m "not slow"

check: setup ## style, types, import rules, spelling and the fast tests
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy $(PACKAGES)
	@.venv/bin/lint-imports
	@$(PY) -m codespell_lib
	@$(PY) -m pytest -q -m "$(FAST)"

fmt: setup ## format the code and fix what can be fixed
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: setup ## measure environment, storage, labelling, learner and network speeds on this machine
	@$(PY) -m benchmarks

doctor: setup ## say what this machine has, what is missing, and how to fix it
	@$(PY) -m envs.doctor

clean: ## remove .venv, the private driver and caches; runs/ is kept
	rm -rf .venv .vulkan .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
