# `make demo` and `make test` need python3 (3.11 or later) and nothing else.
PYTHON  ?= python3
VENV    := .venv
PY      := $(VENV)/bin/python
STAMP   := $(VENV)/.installed
THREADS ?= 2
# Processes that share the tests: many of these wait for others, so one more than threads.
WORKERS ?= $(shell expr $(THREADS) + 1)

# What `make demo` trains. For example: make demo DEMO_MAP=3s_vs_3z DEMO_STEPS=15000
DEMO_ALG   ?= gawm_small
DEMO_MAP   ?= 3m
DEMO_STEPS ?= 15000
DEMO_TEST  ?= 1000
DEMO_SEED  ?= 0

.PHONY: demo test test-slow bench bench-full bench-profile lint install clean
.DEFAULT_GOAL := test

install: $(STAMP)

$(STAMP): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or later is needed; name one with: make PYTHON=/path/to/python3.11")'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing requirements into $(VENV) (once; this takes some minutes)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@touch $@

demo: $(STAMP)
	@$(PY) src/main.py --config=$(DEMO_ALG) --env-config=smax with env_args.map_name=$(DEMO_MAP) \
	  t_max=$(DEMO_STEPS) test_interval=$(DEMO_TEST) log_interval=$(DEMO_TEST) seed=$(DEMO_SEED) \
	  cpu_threads=$(THREADS)
	@$(PY) src/results.py plot --run "$$(ls -td results/sacred/$(DEMO_ALG)/$(DEMO_MAP)/[0-9]* | head -n 1)" \
	  --out results/plots/$(DEMO_ALG)_$(DEMO_MAP).png

test: lint
	@$(PY) -m pytest -n $(WORKERS)

test-slow: $(STAMP)
	@$(PY) -m pytest -m slow

# ONLY=word restricts it to the cases whose names begin with the word, DEVICE=cuda times a GPU, and WITH="key=value ..."
# are settings of all runs.
DEVICE ?= cpu
bench bench-full bench-profile: $(STAMP)
	@$(PY) benchmarks/speed.py --threads $(THREADS) --only "$(ONLY)" --device $(DEVICE) --json results/speed.json \
	  $(patsubst bench-%,--%,$(filter bench-%,$@)) $(if $(WITH),with $(WITH))

lint: $(STAMP)
	@$(PY) -m ruff check .
	@$(PY) -m mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
