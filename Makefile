# `make check`: the L1 and L2 suites against the embedded reference. `make test`: all tests. Both on two
# cores. `make targets`: the suites against vLLM's and SGLang's connectors and against routers, each
# installed with pinned versions into an environment of its own, in a cache (PD_TARGETS=folder).
# All need Python 3.10+, make and a package index; they set up .venv on first use.
#
#   PYTHON=python3.12   the interpreter to build .venv with
#   TORCH=torch==2.13.0 what to install as torch, before anything that depends on it;
#                       TORCH= (empty) leaves torch out, and its tests are skipped

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=

.PHONY: check test targets targets-docs lint docs docs-site bench soak clean venv

check: $(VENV)/.ready
	$(BIN)/python -m pytest tests/disaggregation -n 2 $(ARGS)

test: $(VENV)/.ready
	PD_EXAMPLES=thorough $(BIN)/python -m pytest tests -n 2 --dist loadgroup $(ARGS)

# TARGETS="vllm-nixl vllm-router" runs these only; PD_ATOM_SOURCE names checkouts of ATOM.
targets: $(VENV)/.ready
	$(BIN)/python -m tests.targets run $(TARGETS)
	$(BIN)/python -m tests.targets upstream
	$(BIN)/python -m tests.targets clients
	$(BIN)/python -m tests.targets accuracy

targets-docs: $(VENV)/.ready
	$(BIN)/python -m tests.targets run --record $(TARGETS)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.ready
	$(BIN)/python -m pd_testkit.report.contract_doc > docs/contract.md
	$(BIN)/python -m tests.kit.mutants > docs/mutants.md
	$(BIN)/python -m tests.docs.reference

# The site of docs/, into build/site: strict, so that a broken link or a page that is nowhere fails.
docs-site: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/fabric_copy.py
	$(BIN)/python benchmarks/merge_blocks.py
	$(BIN)/python benchmarks/plugin_load.py
	$(BIN)/python benchmarks/proxy.py --check
	$(BIN)/python benchmarks/transports.py
	$(BIN)/python benchmarks/engine.py --check
	$(BIN)/python benchmarks/generator.py
	$(BIN)/python benchmarks/adaptive.py --check
	$(BIN)/python benchmarks/selective_transfer.py

soak: $(VENV)/.ready
	$(BIN)/python benchmarks/hundred_runs.py

venv: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "pd-testkit needs Python 3.10 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
