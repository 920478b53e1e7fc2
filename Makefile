# `make serve` and `make test` do all the set-up on a fresh machine: virtual environment, dependencies, then the work.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where PyTorch comes from: its CPU build, unless another of its indexes is named (make serve TORCH_INDEX_URL=...)
TORCH_INDEX_URL ?= https://download.pytorch.org/whl/cpu
TORCH := $(shell sed -n 's/^torch==/torch==/p' requirements.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help serve ray test e2e raytest docs dashboards check format clean

help:  ## show what there is
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

serve: $(VENV)/runtime.txt  ## start the server on the shipped model; settings are NER_* environment variables
	@exec $(BIN)/python -m service serve

ray: $(VENV)/ray.txt  ## start a fleet on Ray Serve on this machine: see docs/ray.md
	@export PYTHONPATH=$(CURDIR) NER_STATE_DIR=$${NER_STATE_DIR:-$(CURDIR)/state} \
	RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=service.fleet.retries:middlewares; \
	exec $(BIN)/serve run service/fleet/serve.yaml

test: check  ## lint, types and all tests that need nothing but Python
	$(BIN)/python -m pytest --ignore tests/e2e -n 2 --dist loadfile

e2e: $(VENV)/e2e.txt  ## tests with a browser, containers and foreign clients; installs what they need
	tests/e2e/install.sh
	$(BIN)/python -m pytest tests/e2e

raytest: $(VENV)/raytest.txt  ## the tests of a fleet, on a Ray cluster of two nodes on this machine
	@command -v redis-server >/dev/null || { echo "make raytest needs redis-server: install the system's package" >&2; exit 1; }
	$(BIN)/python -m pytest tests/e2e/test_ray_serve.py

docs: $(VENV)/runtime.txt  ## write the generated pages of docs/ anew from the code
	$(BIN)/python -m docs.generate

dashboards: $(VENV)/e2e.txt  ## write Grafana's dashboards anew from their code
	$(BIN)/python -m dashboards

check: $(VENV)/dev.txt  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.txt  ## put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the virtual environment
	rm -rf $(VENV)

# torch first and alone: the index that it comes from is asked for nothing else
$(VENV)/runtime.txt: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --no-deps --extra-index-url $(TORCH_INDEX_URL) $(TORCH)
	$(PIP) install -r requirements.txt
	$(BIN)/python -m service compile
	cp requirements.txt $@

$(VENV)/dev.txt: $(VENV)/runtime.txt requirements-dev.txt
	$(PIP) install -r requirements-dev.txt
	cp requirements-dev.txt $@

$(VENV)/ray.txt: $(VENV)/runtime.txt requirements-ray.txt
	$(PIP) install -r requirements-ray.txt
	cp requirements-ray.txt $@

$(VENV)/raytest.txt: $(VENV)/dev.txt $(VENV)/ray.txt
	cp requirements-ray.txt $@

$(VENV)/e2e.txt: $(VENV)/dev.txt requirements-e2e.txt
	$(PIP) install -r requirements-e2e.txt
	cp requirements-e2e.txt $@
