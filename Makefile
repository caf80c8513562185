# The one entry to everything; CI calls only these targets.

PYTHON ?= python3
VENV ?= .venv
# The inference port; the four after it are management, metrics and gRPC. Empty: config.properties.
PORT ?=
TRAINING ?=
PLOT ?= predictions.png

BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
STORE := model_store
SERVER := $(BIN)/python -m client.server
ifneq ($(PORT),)
export MNIST_URL := http://127.0.0.1:$(PORT)
PORT_FLAG := --port $(PORT)
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup model archive start stop serve plot draw demo key doctor test soak container lint \
	format bench clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) PORT=$(or $(PORT),8080) TRAINING='--preset fast'"

setup: $(READY) ## a virtual environment with the tested versions of what training and serving need
# Each file is held to its hash; the project itself is built with the setuptools among them.
$(READY): pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Apart, since other people's clients bring many packages that nobody needs to serve.
$(READY_DEV): $(READY) constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

model: $(STORE)/mnist.pt ## train (about 5 minutes); TRAINING='--preset fast' takes 20 seconds
$(STORE)/mnist.pt: $(wildcard training/*.py) $(wildcard data/*.gz) | $(READY)
	$(BIN)/python -m training --output $@ $(TRAINING)

archive: $(STORE)/mnist.mar ## bundle model and handler into model_store/mnist.mar
$(STORE)/mnist.mar: $(STORE)/mnist.pt $(wildcard handler/*.py handler/*/*.py) | $(READY)
	$(BIN)/python -m handler.archive --model $< --export-path $(STORE)

start: archive ## serve in the background; returns when a real prediction works
	@$(SERVER) start $(PORT_FLAG)

stop: | $(READY) ## end that server
	@$(SERVER) stop $(PORT_FLAG)

serve: archive ## serve in the foreground
	@$(SERVER) serve $(PORT_FLAG)

plot: | $(READY) ## ask the server for 16 random test digits and draw them
	$(BIN)/python -m client plot --output $(PLOT)

draw: archive ## draw a digit in the browser; starts the server if none runs
	@$(SERVER) ready $(PORT_FLAG) >/dev/null || $(SERVER) start $(PORT_FLAG)
	@$(BIN)/python -m client draw

key: | $(READY) ## print the inference key, for curl
	@$(BIN)/python -c "from client.server import Server; print(Server().key)"

doctor: | $(READY) ## tell what keeps the server from starting or from serving
	@$(BIN)/python -m client doctor $(PORT_FLAG)

demo: archive ## all of it: set up, train, archive, start, plot to predictions.png, stop
	@$(SERVER) start $(PORT_FLAG) && { \
	trap '$(SERVER) stop $(PORT_FLAG)' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/python -m client plot --output $(PLOT); }

test: $(READY_DEV) ## every test, on a TorchServe of the tests' own
	$(BIN)/python -m pytest

soak: $(READY_DEV) ## faults in numbers: full load, broken requests, workers killed (20 minutes)
	$(BIN)/python -m pytest tests/faults --soak

container: $(READY_DEV) ## follow the Containerfile without an engine (as root, debootstrap, 20 GB)
	$(BIN)/python -m pytest tests/deploy/test_containerfile.py --clean-root build/clean-root

lint: $(READY_DEV) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY_DEV) ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STORE)/mnist.mar ## measure side by side with other servers (about 40 minutes)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks

clean: ## remove everything that make built, the virtual environment included
	rm -rf $(VENV) $(STORE)/mnist.* .cache .run logs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
