# `make train` and `make test` work on a fresh machine. PYTHON, PIP_ARGS, INVENTORY and ARGS may be given.
SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
INVENTORY ?= inventory
PIP_ARGS ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PLAY := $(BIN)/ansible-playbook
LOCK := train/pyproject.toml train/constraints.txt
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Ansible does not start in a locale that was never generated, as in a new WSL, nor in C.
ifneq ($(shell locale charmap 2>&1),UTF-8)
export LC_ALL := C.UTF-8
endif

N ?= 2
PCS := $(foreach number,$(shell seq $(N)),pc$(number))

.PHONY: train deploy status watch stop test quick lint molecule pytest proofs docs lab lab-ready lab-down lock clean

train: $(VENV)/.control  ## trains on the inventory, by default on two workers of this machine
	@$(PLAY) deploy_and_train.yml -i $(INVENTORY)

deploy: $(VENV)/.control  ## asks for workers, account and folders, then sets up, deploys and trains; ARGS="--workers A,B" asks nothing
	@$(BIN)/python -m winfleet.deploy $(ARGS)

status: $(VENV)/.control  ## one table of all ranks
	@$(PLAY) status.yml -i $(INVENTORY)

watch: $(VENV)/.control  ## the newest run, shown anew each second; ARGS="--run logs/RUN" another one, ARGS="--inventory PATH" whatever runs
	@$(BIN)/python -m winfleet.status $(ARGS)

stop: $(VENV)/.control  ## checkpoint, then exit
	@$(PLAY) stop.yml -i $(INVENTORY)

test: $(VENV)/.dev  ## everything, side by side; ends with what passed and failed
	@tests/packages.sh
	@$(BIN)/python tests/run.py

lint molecule pytest: $(VENV)/.dev  ## one part of it
	@tests/packages.sh
	@$(BIN)/python tests/run.py $@

quick: $(VENV)/.dev  ## five minutes, for whoever edits: lint, types, and the tests that need no lab and no Ansible and train nothing for long
	@$(BIN)/python tests/run.py quick

proofs: $(VENV)/.dev  ## before an issue is closed: everything, what takes minutes too, then pytest beside four endless loops a core (hours)
	@tests/packages.sh
	@$(BIN)/python tests/run.py proofs
	@$(BIN)/python tests/run.py pytest loaded

docs: $(VENV)/.control  ## docs/troubleshooting.md and .en.md from the table of causes, docs/claims.md from the table of claims
	@$(BIN)/python docs/troubleshooting.py
	@$(BIN)/python docs/claims.py

lab: $(VENV)/.control  ## N Windows PCs on this machine (root, Debian), closed as freshly installed ones
	@molecule/lab/lab setup
	@molecule/lab/lab up $(N)
	@echo "Open one as its owner would:  molecule/lab/lab run pc1 --policy Bypass scripts/worker_setup.ps1 -MasterIP 10.77.0.1"
	@echo "Or all, and add them:         make lab-ready"

lab-ready: lab  ## opens the PCs with worker_setup.ps1 and makes inventories/lab
	@molecule/lab/ready $(PCS)

lab-down: $(VENV)/.control  ## takes every trace of the lab away but its cache
	@molecule/lab/lab down
	@rm -rf inventories/lab inventories/certificates/lab

lock: $(VENV)/.dev  ## train/uv.lock, and the same in pip's words
	$(BIN)/uv lock --project train
	$(BIN)/uv export --quiet --project train --frozen --all-extras --no-hashes --no-emit-project --no-annotate --no-header -o train/constraints.txt

# A constraints file from the lock: a new release elsewhere changes nothing here.
$(VENV)/.control: $(LOCK) | $(VENV)/bin/python
	@echo "Installing the control node's packages into $(VENV) (once, a few minutes)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -c train/constraints.txt -e 'train[control]'
	@touch $@

$(VENV)/.dev: $(VENV)/.control
	@echo "Installing the packages for tests"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) -c train/constraints.txt -e 'train[control,dev]'
	@touch $@

$(VENV)/bin/python:
	@$(or $(PYTHON),python3) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "\nhint: make train PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)

clean:  ## removes what was made here; runs and workers stay
	rm -rf $(VENV) .cache data
