# make help lists what there is; make train and make test make the environment, too.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

MODEL  ?= dood-transformer
SOURCE ?= digits
BUDGET ?= 5m
SEED   ?= 0
SEEDS  ?= 0
LIMIT  ?= 1000
# Runs that transfer-table need not train again; empty: none.
KEPT   ?= experiments/runs
RUN    ?= runs/$(MODEL)-$(basename $(notdir $(SOURCE:/=)))-$(SEED)
# What is tested with the oldest versions; not what depends on the random numbers of others.
OLDEST := $(addprefix tests/,data rendering test_as_drawings.py test_cuda_graphs.py test_dood.py test_drawing.py test_evaluate.py test_generate.py test_parsing.py test_recognition.py test_tokens.py test_training.py)
# Where the data lie; the platform's cache folder unless set.
export DOOD_DATA

.DEFAULT_GOAL := help
.PHONY: help install browser docs train test test-fast test-oldest transfer-table figures tables restore-runs strokes-table joins verify bench format

help: ## list what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(VENV)/installed ## set up .venv

$(VENV)/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "dood-pyro needs Python 3.11 or newer; this is %d.%d: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

train: install ## train MODEL on SOURCE for BUDGET (or go on for longer), draw what was learned
	@if [ -e $(RUN) ]; then \
	    $(BIN)/dood-pyro train --resume $(RUN) --budget $(BUDGET); \
	else \
	    $(BIN)/dood-pyro train --model $(MODEL) --source $(SOURCE) --budget $(BUDGET) --seed $(SEED) --out $(RUN); \
	fi

browser: # what the tests of the page need, where it may be installed
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium > /dev/null; \
	else \
	    echo "tests of the page need Chromium: apt install chromium, or $(BIN)/playwright install chromium"; \
	fi

test: install browser ## style, types and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

test-fast: install ## the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m 'not slow'

transfer-table: BUDGET := $(if $(filter file,$(origin BUDGET)),30m,$(BUDGET))
transfer-table: install ## train, measure and draw who explains whose drawings (BUDGET SEEDS MODELS SOURCES LIMIT ENGINE JOBS RUNS KEPT TABLE)
	$(BIN)/dood-pyro transfer-table --budget $(BUDGET) --limit $(LIMIT) --seeds $(SEEDS) \
	    $(if $(MODELS),--models $(MODELS)) $(if $(SOURCES),--sources $(SOURCES)) \
	    $(if $(ENGINE),--engine $(ENGINE)) $(if $(JOBS),--jobs $(JOBS)) $(if $(RUNS),--runs-dir $(RUNS)) $(if $(KEPT),--kept-runs $(KEPT)) \
	    $(if $(TABLE),--table $(TABLE))

figures: install ## draw every figure of the paper from the kept runs (RUNS)
	$(BIN)/python experiments/paper.py figures $(if $(RUNS),--runs-dir $(RUNS))

tables: install ## measure every table of the paper from the kept runs (RUNS)
	$(BIN)/python experiments/paper.py tables $(if $(RUNS),--runs-dir $(RUNS))

restore-runs: install ## bring back the weights of kept runs that no figure needs
	$(BIN)/python experiments/restore_runs.py

strokes-table: install ## pen strokes of people beside those that are found in pictures of them, and rivals
	$(BIN)/python experiments/strokes_table.py
	$(BIN)/python experiments/strokes_figure.py

joins: install ## train the score of which lines of a drawing are one stroke, on true pen strokes
	$(BIN)/python experiments/train_joins.py

test-oldest: ## tests of parsing, drawing and training with the oldest versions that setup.cfg allows
	$(PYTHON) -m venv .venv-oldest
	$(PYTHON) experiments/oldest_versions.py > .venv-oldest/oldest.txt
	.venv-oldest/bin/pip install --quiet --requirement .venv-oldest/oldest.txt --editable '.[tasks,train]' pytest pytest-xdist
	OMP_NUM_THREADS=1 .venv-oldest/bin/pytest -n auto --dist worksteal $(OLDEST)

docs: install ## build the documentation into docs/_build
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs . docs/_build/html
	@echo docs/_build/html/docs/index.html

verify: install ## recompute a sample of the results from the kept runs, and compare docs/results.md with its files
	$(BIN)/python experiments/verify.py

bench: install ## time the renderer, a training step and a parse
	$(BIN)/python experiments/bench.py

format: install ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
