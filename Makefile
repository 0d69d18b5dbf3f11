# Everything a contributor runs. Needs Python 3.11 or newer, and an index to install packages from.
# Environments live in .venv*, and are brought up to date when pyproject.toml changes.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo dist test test-one test-oldest lint format bench bench-quick bench-attacks bench-rolling docs repeat soak clean

# More arguments for the program that a target runs: make test-one ARGS='-k deadline'
ARGS ?=
# The main interpreter, if it is not to be looked for.
PYTHON ?=

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.has-http ## install Spear and show what it does
	@.venv/bin/python examples/demo.py
	@echo
	@.venv/bin/python examples/served.py

dist: .venv/.has-test ## build the wheel and the source distribution in dist/
	@.venv/bin/python -c "from setuptools.build_meta import *; build_wheel('dist'); build_sdist('dist')"

test: .venv/.has-test ## run the suite under every supported Python that is here, with coverage
	@.ci/test

test-one: .venv/.has-test ## run pytest once: make test-one ARGS='-k deadline'
	@.venv/bin/python -m pytest $(ARGS)

test-oldest: .venv-oldest/.has-test ## run the suite with the oldest dependencies allowed
	@.venv-oldest/bin/python -m pytest $(ARGS)

lint: .venv/.has-test .venv/.has-lint ## check style, format and types
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy --strict

format: .venv/.has-lint ## format the code, and mend what ruff can mend
	@.venv/bin/ruff check --fix-only
	@.venv/bin/ruff format

bench: .venv-bench/.has-bench ## measure Spear beside its peers
	@.venv-bench/bin/python -m bench $(ARGS)

bench-quick: .venv-bench/.has-bench ## the same in under two minutes
	@.venv-bench/bin/python -m bench --quick $(ARGS)

bench-attacks: .venv-bench/.has-bench ## measure the gateway under clients that mean ill
	@.venv-bench/bin/python -m bench.http_attacks $(ARGS)

bench-rolling: .venv-bench/.has-bench ## draw a rolling restart under load
	@.venv-bench/bin/python -m bench.rolling $(ARGS)

docs: .venv-docs/.has-docs ## build the documentation as a site with search, in build/docs
	@.venv-docs/bin/python -m sphinx --quiet --fail-on-warning --keep-going --jobs auto \
		--conf-dir docs --doctree-dir build/doctrees . build/docs $(ARGS)
	@echo build/docs/index.html

soak: .venv/.has-test ## the long runs, which take hours
	@.venv/bin/python -m pytest -m soak --hypothesis-profile soak --time-limit 0 \
		-o faulthandler_timeout=0 $(ARGS)
	@.ci/repeat 20

repeat: .venv/.has-test ## run the suite ten times under each Python, on busy processors
	@.ci/repeat 10 $(ARGS)

clean: ## remove all that these targets made
	@rm -rf .venv .venv-* *.egg-info build dist bench/build docs/reference .coverage .coverage.* \
		.hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp names the extra that its environment has: .venv/.has-test says that spearlet[test] is in .venv.
.venv/.has-http .venv/.has-test .venv/.has-lint: pyproject.toml
	@.ci/make-venv .venv "$(@:.venv/.has-%=%)" $(PYTHON)

.venv-bench/.has-bench: pyproject.toml
	@.ci/make-venv .venv-bench bench $(PYTHON)

.venv-docs/.has-docs: pyproject.toml
	@.ci/make-venv .venv-docs docs $(PYTHON)

.venv-oldest/.has-test: pyproject.toml
	@OLDEST=yes .ci/make-venv .venv-oldest test $(PYTHON)
