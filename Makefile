# Three commands do all the set-up on a machine that has only Python (3.10 or newer):
#   make quickstart   virtual environment, install, then the main job on the embedded toy dataset
#   make test-fast    virtual environment, install with test tools, lint and the fast tests (three to six minutes): those that
#                     neither train nor convert a model nor start a process
#   make test         the same with all tests
#   make docs         the pages as a site in site/, built strictly: a broken link is an error
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python -m a2net_tf.main
QUICK = runs/quickstart

.PHONY: quickstart test test-fast lint docs clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python setup.py pyproject.toml
	$(VENV)/bin/pip install --quiet --editable ".[pandas,plots,tensorboard]"
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --editable ".[test]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --editable ".[docs]"
	touch $@

quickstart: $(VENV)/.installed
	$(RUN) --flagfile=configs/quickstart.flags --mode=train_and_evaluate
	$(RUN) --mode=export --workdir=$(QUICK) --saved_model=$(QUICK)/saved_model
	$(RUN) --mode=predict --saved_model=$(QUICK)/saved_model --output=$(QUICK)/held_out.json \
		--dataset=toy_actions --data_dir=$(QUICK)/data --eval_split='test[:1]'
	@echo "everything is in $(QUICK): report.html, metrics.json, detections.json, timelines/, logs/ (tensorboard --logdir), saved_model/"

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# Each process begins with one half of the tests, in their order, and takes over from the other when it has done its own.
PYTEST = $(VENV)/bin/python -m pytest --numprocesses=2 --dist=worksteal

test: lint
	$(PYTEST)

test-fast: lint
	$(PYTEST) -m "not slow"

docs: $(VENV)/.installed-docs
	$(VENV)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site *.egg-info
