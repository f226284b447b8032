# Each target sets up .venv once. PYTHON and VENV can be set: make test VENV=/tmp/venv
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready

.PHONY: help evaluate test test-docs test-lowest test-cluster fuzz mutate benchmark findings lint audit format site build clean

help:  ## List the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(READY): $(INSTALLED)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

evaluate: $(INSTALLED)  ## Set up and measure the built-in photographs: ARGS="aug=noise" adds options
	$(BIN)/python evaluate.py $(ARGS)

# Two processes of one thread each: tests are small, and threads would cost more than they save.
test: $(READY)  ## Run all tests but the slow ones: ARGS="-k gaze" selects some
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=worksteal $(ARGS)

test-cluster: $(READY)  ## Run the tests of several machines; SLURM's require Debian's slurm-wlm and munge
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/cluster -m cluster $(ARGS)

test-docs: $(READY)  ## Run every command of README and docs as written
	$(BIN)/pip install --quiet --editable ".[dev,train,launchers]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=worksteal -m "" tests/test_docs.py $(ARGS)

test-lowest:  ## Run the tests with the lowest versions that we allow; Gradio and transformers require newer ones
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/pip install --quiet --constraint .ci/lowest.txt --editable ".[test]"
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest --numprocesses=2 --dist=worksteal \
		--ignore=clipshift/demo/page.py --ignore=clipshift/encode/transformers_models.py $(ARGS)

fuzz: $(READY)  ## Test with more damaged files: COUNT=10000 photos, SEED=2
	OMP_NUM_THREADS=1 CLIPSHIFT_FUZZ=$(or $(COUNT),3000) CLIPSHIFT_FUZZ_SEED=$(or $(SEED),1) \
		$(BIN)/python -m pytest tests/test_fuzz.py $(ARGS)

mutate: $(READY)  ## Mutation testing: change COUNT=150 lines one by one (SEED=0), and see whether a test fails
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutation.py $(or $(COUNT),150) $(or $(SEED),0) $(FOLDER)

benchmark: $(READY)  ## Photos per second, compared with the paper's procedure: ARGS="PHOTOS --rounds=1"
	$(BIN)/pip install --quiet --editable ".[benchmark]"
	$(BIN)/python benchmarks/speed.py $(or $(ARGS),../shared/photos/imagenet-sample)

findings: $(READY)  ## Run the docs' measurements and write their numbers into the pages: ARGS="lite tiny" selects runs
	$(BIN)/python benchmarks/findings.py $(ARGS)

lint: $(READY)  ## Check style, types, imports between rooms, spelling and English
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell *.md .ci .github benchmarks clipshift conf docs tests
	$(BIN)/python .ci/english.py

# PyPI does not list local versions such as torch 2.13.0+cpu. A failed look-up fails the target.
audit: $(READY)  ## Look up known vulnerabilities of the lowest and the installed versions at pypi.org
	$(BIN)/pip install --quiet "pip-audit>=2.9"
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement .ci/lowest.txt
	$(BIN)/pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > $(VENV)/audited.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)/audited.txt

format: $(READY)  ## Fix formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

site: $(READY)  ## Build the docs' site into site/
	$(BIN)/mkdocs build --strict

build:  ## Build wheel and sdist into dist/, and check what PyPI would show of them
	$(PYTHON) -m venv $(VENV)-build
	$(VENV)-build/bin/pip install --quiet build twine
	rm -rf dist
	$(VENV)-build/bin/python -m build --outdir dist .
	$(VENV)-build/bin/twine check --strict dist/*

clean:  ## Remove the environment and caches; results stay
	rm -rf $(VENV) $(VENV)-* build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
