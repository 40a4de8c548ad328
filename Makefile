# Two commands matter: `make demo` and `make test`. Each sets up what it needs, then runs.
PYTHON ?= python3
# Test processes at once. Most tests wait for processes of theirs, so four share two cores well.
export WORKERS ?= 4
VENV ?= .venv
PY := $(VENV)/bin/python
DEV := $(VENV)/.dev
SDK2 := $(VENV)-sdk2
FUZZ := $(VENV)-fuzz

.PHONY: demo test test-all test-floors test-sdks test-cdk check soak matrix fuzz lint bench clean system system-for-tests

# The virtual environment that users get: the package with its local cloud, nothing for developers.
$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check -e '.[emulator]'
	touch $@

$(DEV): $(VENV)/.demo
	$(PY) -m pip install -q --disable-pip-version-check -e '.[emulator,dev]'
	touch $@

system:
	scripts/setup-system

# The same, and what only tests need.
system-for-tests:
	scripts/setup-system for-tests

# The SageMaker Python SDK 2 is large, and shares no environment with version 3.
$(SDK2)/.ready: pyproject.toml
	$(PYTHON) -m venv $(SDK2)
	$(SDK2)/bin/python -m pip install -q --disable-pip-version-check -e '.[emulator]' 'sagemaker>=2.250,<3'
	touch $@

# The fuzzer's wheels hold libFuzzer, for Python 3.11 to 3.13.
$(FUZZ)/.ready: pyproject.toml
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install -q --disable-pip-version-check -e '.[fuzz]'
	touch $@

ifeq ($(SDK),v2)
demo: system $(SDK2)/.ready
	$(SDK2)/bin/sm-ssh demo --sdk v2
else
demo: system $(VENV)/.demo
	$(VENV)/bin/sm-ssh demo
endif

# Tests share what a file sets up, so a worker takes a whole file.
SHARED := -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 20
test: system-for-tests $(DEV) $(SDK2)/.ready
	SDK2_PYTHON=$(SDK2)/bin/python $(PY) scripts/run_tests.py $(SHARED)

# The inner loop: unit tests of what has changed, lint, types, imports. `make check TESTS=tests/aws/test_tags.py`.
check: $(DEV)
	$(PY) scripts/check.py $(TESTS)

# What takes longer, too: every estimator and both versions of the SageMaker SDK (5 GB), on the oldest and the
# newest Python, and the stacks of the Cloud Development Kit.
SDK_PYTHONS ?= 3.10 3.13
test-all: $(DEV)
	$(PY) scripts/tally.py $(MAKE) -k test test-floors test-sdks test-cdk FLOOR_TESTS=tests

test-sdks:
	status=0; for major in 2 3; do for python in $(SDK_PYTHONS); do \
		scripts/test-sdk $$major $$python || status=1; done; done; exit $$status

test-cdk:
	scripts/test-cdk

# Long transfers, long outages, many sessions: some minutes, with the figures printed.
soak: system $(DEV)
	$(PY) scripts/run_tests.py --tier soak -m soak -s --durations 0 --durations-min 1

# Containers of every kind, each with a real login: every Python x user x read-only x ssh server, in a Debian of
# their own, and the example images, built by their Dockerfiles. As root on Linux; minutes.
matrix: system $(DEV)
	cd tests && PYTHONPATH=.:../src ../$(PY) -m matrix

# Fuzzing guided by coverage: a million inputs for each parser, then the branches that they reach.
# `make fuzz RUNS=10000 TARGETS="payload tags"` is shorter.
RUNS ?= 1000000
fuzz: $(FUZZ)/.ready
	PYTHONPATH=tests WORKERS=$(WORKERS) $(FUZZ)/bin/python -m fuzz --runs $(RUNS) $(TARGETS)

# The container side on the oldest Python it promises, and the user's side on its own: of the scenarios through
# the local cloud those that go through most of it; `make test-all` runs them all. Test files without the mark
# import what Python 3.8 has not.
FLOOR_SCENARIOS = error_catalogue kinds survival terminal_sessions training_job work
FLOOR_TESTS = $(filter-out tests/e2e/%,$(wildcard tests/test_*.py tests/*/test_*.py)) \
	$(FLOOR_SCENARIOS:%=tests/e2e/test_%.py)
test-floors: system-for-tests
	scripts/test-floor 3.8 'container and not soak' $$(grep -rl --include='test_*.py' 'pytest.mark.container' tests)
	scripts/test-floor 3.10 'not sdk and not container and not soak and not matrix' $(FLOOR_TESTS)

lint: $(DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# Nothing but the figures on standard output.
bench:
	@$(MAKE) -s system $(DEV) >&2
	@$(PY) -m bench $(if $(QUICK),--quick)

clean:
	rm -rf .venv* .matrix .mypy_cache .ruff_cache .pytest_cache .hypothesis
