# Each environment is made once and marked by a stamp, so that a second run is quick.
#   make test PYTHON=python3.12      another interpreter
#   make test-wheel PYTEST_ARGS=...  other arguments for pytest

PYTHON ?= python3
PYTEST_ARGS ?=
SKIP ?=
MUTANTS ?=

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

SUPPORTED := 3.11 3.12 3.13
# A PYTHONPATH of the caller could put the checkout before the installed wheel.
unexport PYTHONPATH

SHOW_VERSION := import sys; print("%d.%d" % sys.version_info[:2])
VERSION := $(shell $(PYTHON) -c '$(SHOW_VERSION)' 2>/dev/null)

LINT := .venv/lint
DEMO := .venv/demo
TEST := .venv/test-$(VERSION)
FUZZ := .venv/fuzz
MUTATION := .venv/mutation
BENCH := .venv/bench
# Tests run from here: nothing of the checkout can be imported from it.
RUN := build/run-$(VERSION)
# The benchmark plugin warns beside xdist, and a warning is an error; benchmarks are no tests anyway.
PYTEST := $(CURDIR)/$(TEST)/bin/pytest -c $(CURDIR)/pyproject.toml --rootdir=$(CURDIR) -n 2 --dist worksteal --benchmark-disable -q

# Folders as well: deleting a file touches its folder.
SOURCES := _walstore.py $(shell find walstore -name __pycache__ -prune -o -print)
TYPED := _walstore.py $(patsubst %/,%,$(sort $(foreach d,walstore tests fuzz examples bench,$(if $(shell find $d -name '*.py' 2>/dev/null),$d))))

# Prints the requirements of the package and of the extras given as arguments.
REQUIREMENTS := import sys, tomllib; \
	project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	extras = [line for name in sys.argv[1:] for line in project["optional-dependencies"][name]]; \
	print("\n".join(project["dependencies"] + extras))

# A mutant that runs into a limit of time or memory was noticed as well.
SHOW_SCORE := import json; \
	stats = json.load(open("mutants/mutmut-cicd-stats.json")); \
	missed = stats["survived"] + stats["no_tests"]; \
	killed = sum(stats[how] for how in ("killed", "timeout", "segfault", "suspicious")); \
	print(f"{killed} of {killed + missed} mutants killed, {killed / max(killed + missed, 1):.1%};", \
		"the others: .venv/mutation/bin/mutmut results")
# A mutant may loop and grow without end.
MUTATION_MEMORY_KIB := 4000000

# pip may name the machine's package index in a complaint; that is nobody's business but the machine's.
MASK := sed -E 's,((https?|file)://|host=.)[^ ]+,\1(index),g' >&2
pip = $(1)/bin/python -m pip --disable-pip-version-check -qq $(2) 2>&1 | $(MASK)
# --clear: an interrupted or outdated environment is made anew.
venv = $(PYTHON) -m venv --clear $(1)

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

.PHONY: demo
demo: $(DEMO)/.stamp ## install the package and run `walstore demo`
	@$(DEMO)/bin/walstore demo

.PHONY: test
test: lint test-wheel ## lint, build the wheel and test it, on one Python

.PHONY: lint
lint: $(LINT)/.stamp ## ruff and mypy
	@$(LINT)/bin/ruff check --quiet
	@$(LINT)/bin/ruff format --check --quiet || { echo 'Not formatted: run `$(LINT)/bin/ruff format`.' >&2; exit 1; }
	@$(LINT)/bin/mypy $(TYPED)

.PHONY: test-wheel
test-wheel: install-wheel ## test the built wheel, on one Python
	@cd $(RUN) && $(PYTEST) $(PYTEST_ARGS) $(CURDIR)/tests

.PHONY: test-unidb
test-unidb: install-wheel ## the whole contract on the package uni-db (`make test` runs a slice of it)
	@cd $(RUN) && WALSTORE_UNIDB_TESTS=all $(PYTEST) -s $(PYTEST_ARGS) $(CURDIR)/tests/backends/test_system_label_unidb.py

.PHONY: test-pythons
test-pythons: check ## test the wheel on every Python 3.11 to 3.13 of this machine (SKIP=3.11 leaves one out)
	@seen=' $(SKIP) '; \
	for python in $(PYTHON) $$(type -aP $(SUPPORTED:%=python%)) $$(pyenv root 2>/dev/null)/versions/*/bin/python; do \
		version=$$("$$python" -c '$(SHOW_VERSION)' 2>/dev/null) || continue; \
		[[ ' $(SUPPORTED) ' == *" $$version "* && $$seen != *" $$version "* ]] || continue; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
		seen+="$$version "; \
		echo "Python $$version:"; \
		$(MAKE) test-wheel PYTHON="$$python"; \
	done; \
	for version in $(SUPPORTED); do \
		[[ $$seen == *" $$version "* ]] || echo "Python $$version is not here (or without venv): not tested." >&2; \
	done

# Traced, the crash tests take several times as long as the rest, and they run the same lines at every call in turn.
.PHONY: coverage
coverage: install-wheel ## line and branch coverage of the wheel, child processes included, without the crash tests
	@cd $(RUN) && COVERAGE_FILE=$(CURDIR)/build/coverage $(PYTEST) --cov --cov-config=$(CURDIR)/pyproject.toml \
		--hypothesis-profile=coverage -m 'not signals' --ignore=$(CURDIR)/tests/crash $(PYTEST_ARGS) $(CURDIR)/tests

.PHONY: fuzz
fuzz: $(FUZZ)/.stamp ## all fuzzers for FUZZ_SECONDS (300), added to fuzz/ledger.json
	@$(FUZZ)/bin/python -m fuzz

.PHONY: planted
planted: $(FUZZ)/.stamp ## plant known kinds of bugs, one at a time, and see which fuzzer finds each
	@$(FUZZ)/bin/python -m fuzz.mutants

.PHONY: mutation
mutation: $(MUTATION)/.stamp ## mutation testing of engine, format and reducer; MUTANTS='walstore.format.*' for a part
	@set -f; ulimit -v $(MUTATION_MEMORY_KIB); PATH=$(CURDIR)/$(MUTATION)/bin:$$PATH mutmut run $(MUTANTS)
	@$(MUTATION)/bin/mutmut export-cicd-stats > /dev/null
	@$(MUTATION)/bin/python -c '$(SHOW_SCORE)'

.PHONY: bench
bench: $(BENCH)/.stamp ## walstore, its peers and its floors side by side, into bench/report (BENCH_SCALE=quick: a minute)
	@$(BENCH)/bin/python -m bench

.PHONY: bench-calls
bench-calls: $(BENCH)/.stamp ## what single calls of walstore cost
	@$(BENCH)/bin/python -m pytest -q --benchmark-only bench

.PHONY: clean
clean: ## remove all that make and the tests made
	@rm -rf .venv build dist mutants bench/report .coverage* .hypothesis .benchmarks .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: check
check:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo 'walstore needs Python 3.11 or newer (Debian: apt install python3); PYTHON=... names another one.' >&2; \
		  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo '$(PYTHON) cannot make environments: install its venv module (Debian: apt install python3-venv).' >&2; \
		  exit 1; }

$(LINT)/.stamp: pyproject.toml | check
	@echo 'Setting up $(LINT)'
	@$(call venv,$(LINT))
	@$(LINT)/bin/python -c '$(REQUIREMENTS)' cli postgres lint test fuzz bench > $(LINT)/requirements.txt
	@$(call pip,$(LINT),install build 'hatchling>=1.27' -r $(LINT)/requirements.txt)
	@touch $@

$(TEST)/.stamp: pyproject.toml | check
	@echo 'Setting up $(TEST)'
	@$(call venv,$(TEST))
	@$(TEST)/bin/python -c '$(REQUIREMENTS)' cli postgres servers test > $(TEST)/requirements.txt
	@$(call pip,$(TEST),install -r $(TEST)/requirements.txt)
	@$(TEST)/bin/python -c '$(REQUIREMENTS)' unidb > $(TEST)/unidb.txt
	@{ $(call pip,$(TEST),install -r $(TEST)/unidb.txt); } 2>/dev/null || \
		echo 'uni-db can not be installed here: the tests on it are skipped.' >&2
	@touch $@

$(FUZZ)/.stamp: pyproject.toml | check
	@echo 'Setting up $(FUZZ)'
	@$(call venv,$(FUZZ))
	@$(FUZZ)/bin/python -c '$(REQUIREMENTS)' postgres servers test fuzz > $(FUZZ)/requirements.txt
	@$(call pip,$(FUZZ),install -r $(FUZZ)/requirements.txt)
	@touch $@

$(MUTATION)/.stamp: pyproject.toml | check
	@echo 'Setting up $(MUTATION)'
	@$(call venv,$(MUTATION))
	@$(MUTATION)/bin/python -c '$(REQUIREMENTS)' cli test mutation > $(MUTATION)/requirements.txt
	@$(call pip,$(MUTATION),install -r $(MUTATION)/requirements.txt)
	@touch $@

# All peers at once if that works. If not, one at a time, so that one that can't be had here does not keep out the rest.
$(BENCH)/.stamp: pyproject.toml | check
	@echo 'Setting up $(BENCH)'
	@$(call venv,$(BENCH))
	@$(BENCH)/bin/python -c '$(REQUIREMENTS)' postgres servers bench > $(BENCH)/requirements.txt
	@$(BENCH)/bin/python -c '$(REQUIREMENTS)' peers > $(BENCH)/peers.txt
	@$(call pip,$(BENCH),install -r $(BENCH)/requirements.txt)
	@{ $(call pip,$(BENCH),install -r $(BENCH)/peers.txt); } 2>/dev/null || while read -r peer; do \
		{ $(call pip,$(BENCH),install "$$peer"); } 2>/dev/null || echo "$$peer can't be installed: left out" >&2; \
	done < $(BENCH)/peers.txt
	@touch $@

# A terminal without colours is no reason to show nothing: the demo runs without the extra as well.
$(DEMO)/.stamp: pyproject.toml $(SOURCES) | check
	@echo 'Setting up $(DEMO)'
	@$(call venv,$(DEMO))
	@$(DEMO)/bin/python -m pip --disable-pip-version-check -qqq install '.[cli]' 2>/dev/null || $(call pip,$(DEMO),install .)
	@touch $@

# The wheel is built from the source distribution, so that a file missing from either fails here.
dist/.stamp: pyproject.toml README.md LICENSE NOTICE $(SOURCES) | $(LINT)/.stamp
	@rm -rf dist && mkdir -p build
	@$(LINT)/bin/python -m build --no-isolation --outdir dist . > build/wheel.log 2>&1 || { cat build/wheel.log >&2; exit 1; }
	@touch $@

.PHONY: install-wheel
install-wheel: dist/.stamp $(TEST)/.stamp
	@$(call pip,$(TEST),install --no-index --no-deps --force-reinstall dist/*.whl)
	@$(call pip,$(TEST),check)
	@mkdir -p $(RUN)
	@cd $(RUN) && $(CURDIR)/$(TEST)/bin/python -c \
		'import sys, walstore; sys.exit(not walstore.__file__.startswith(sys.prefix))' || \
		{ echo 'The tests would import a walstore other than the built wheel.' >&2; exit 1; }
