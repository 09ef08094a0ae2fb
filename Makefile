# UrbanWM: `make` alone lists the verbs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# The locked pip first: an old one takes five times as long.
# Byte code after that, on all cores: where Python may write none, every start would compile again, in twice the time.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.ready
CITY ?=
CITIES := $(if $(CITY),--city $(CITY),)

ADVISORIES := https://pypi.org/pypi/pip/json

.PHONY: help setup up nightly serve ui schedule test unit check audit format bench lock clean

help:  ## list the verbs
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: $(STAMP)  ## virtual environment in .venv, exactly as locked

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $$(grep -E '^(pip|setuptools)==' requirements.lock)
	$(PIP) --no-deps --no-compile -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	$(BIN)/python -m compileall -q -j 0 -x '/tests?/|/testing/_internal/' $(VENV)/lib urbanwm flows serving >/dev/null
	touch $(STAMP)

up: nightly serve  ## set-up, one nightly run, then service and dashboard in the foreground (CITY=london for a live city)

nightly: setup  ## set-up and one nightly run: ingest, train, gate, promote
	$(BIN)/python -m flows.nightly $(CITIES)

serve: setup  ## service and dashboard on http://127.0.0.1:3000 (URBANWM_PORT)
	$(BIN)/urbanwm serve

ui: setup  ## MLflow (port 5000) and Prefect (port 4200) pages over the same state
	$(BIN)/urbanwm ui

schedule: setup  ## the nightly cron deployments, in the foreground
	$(BIN)/python -m flows.deployments

test: setup  ## every test
	$(BIN)/python -m pytest -n 2 --dist loadfile

unit: setup  ## the fast layer: no network, under a minute
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" tests/unit

audit: setup  ## known vulnerabilities of the locked packages (needs the network's advisory database)
	$(BIN)/pip-audit -r requirements.lock --no-deps --disable-pip

check: setup  ## lint, format, types, dependency consistency and, with a network, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pip check
	@if curl -sfo /dev/null --max-time 10 $(ADVISORIES); then $(MAKE) --no-print-directory audit || \
	  echo "audit: found the above; it does not fail a check, as a fix may not exist yet ('make audit' does)"; \
	else echo "audit: skipped, $(ADVISORIES) is out of reach"; fi

format: setup  ## rewrite to the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## measure everything that is promised about speed and memory (15 minutes on an idle machine)
	$(BIN)/python -m benchmarks

lock: setup  ## rewrite requirements.lock from the present environment
	$(BIN)/python -m pip freeze --all --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean:  ## remove caches (never the state in .urbanwm)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
