# `make demo` and `make test` are all a newcomer needs. Both make their own environment.
# Any Python 3.11 or newer will do.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: install chart demo test lint types contracts tests test-deploy lock clean help

help:
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(STAMP)  ## .venv with the four distributions and their extras, from requirements.lock

# One lock for everything; the distributions themselves are installed in place, without resolving anything.
$(STAMP): requirements.lock shared/pyproject.toml services/api/pyproject.toml services/dataprep/pyproject.toml services/worker/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		-e shared -e services/api -e services/dataprep -e services/worker
	@touch $@

demo: install  ## run the main job on this machine and show what came out
	$(BIN)/python examples/demo.py

test: install lint types contracts tests  ## everything that must pass

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy -p regraft -p regraft_api

contracts: install
	$(BIN)/lint-imports

tests: install
	$(BIN)/python -m pytest

test-deploy: export DOCKER_HOST ?= unix:///var/run/docker.sock
test-deploy: install  ## build the images and run docker-compose.yml on the Docker engine at DOCKER_HOST
	$(BIN)/python -m pytest -m docker tests/deploy

chart:  ## dist/regraft-<version>.tgz, for `helm push` to a registry
	helm package helm/regraft --destination dist

lock:  ## resolve requirements.in anew
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --upgrade --strip-extras --no-header --no-annotate --allow-unsafe \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements.lock requirements.in
	sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements.lock

clean:
	rm -rf $(VENV) demo dist
