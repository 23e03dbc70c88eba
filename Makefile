# What each target does is told by `make help`, from the comments behind `##`.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
CORE := $(wildcard fastgw/_core/*.pyx fastgw/_core/*.pxd fastgw/_core/*.h)
CONFIG ?= config.example.yaml
# tests wait more than they compute
JOBS ?= $(shell expr $$(nproc) + 1)

.DEFAULT_GOAL := help
.PHONY: help build run demo test check lint bench bench-quick bench-features debug asan fuzz explore conformance soak docs clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.tools: .ci/setup
	@PYTHON=$(PYTHON) VENV=$(VENV) sh .ci/setup tools
	@touch $@

$(VENV)/.dependencies: pyproject.toml $(VENV)/.tools
	@PYTHON=$(PYTHON) VENV=$(VENV) sh .ci/setup dependencies
	@touch $@

$(VENV)/.built: $(CORE) setup.py $(VENV)/.dependencies
	@echo "building the Cython modules"
	@$(PY) setup.py -q build_ext --inplace --parallel $$(nproc) 2>&1 | grep -vE 'warning|UserWarning|warn\(|^$$|Cythonizing|Compiling|BetaConfiguration' || true
	@$(PY) -c 'import fastgw._core.engine'
	@FASTGW_BUILT=1 $(PY) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

build: $(VENV)/.built ## get what is needed and build (all other targets do this first)

run: build ## start the gateway with config.example.yaml in front of demo services
	@exec $(PY) -m fastgw run $(CONFIG) --demo

test: build $(VENV)/.test-tools ## build, get what the tests need, run the whole suite with the checks
	$(PY) -m pytest -n $(JOBS) --dist loadfile

$(VENV)/.test-tools: .ci/setup
	@PYTHON=$(PYTHON) VENV=$(VENV) sh .ci/setup test
	@touch $@

check: build ## check config.example.yaml
	$(PY) -m fastgw check $(CONFIG)

lint: build ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: build ## beside nginx, HAProxy and Envoy (about 15 minutes); results in benchmarks/results
	benchmarks/setup.sh
	$(PY) -m benchmarks.compare
	$(PY) -m benchmarks.features

bench-features: build ## instructions per request of each feature of resilience (about 5 minutes, needs valgrind)
	$(PY) -m benchmarks.features

bench-quick: build ## the same in about 3 minutes
	benchmarks/setup.sh
	$(PY) -m benchmarks.compare --quick

debug: $(VENV)/.dependencies ## a build with bounds checks and debug information; `make clean build` goes back
	FASTGW_DEBUG=1 $(PY) setup.py -q build_ext --inplace --force
	@rm -f $(VENV)/.built

asan: $(VENV)/.dependencies $(VENV)/.test-tools ## the suite on a build with AddressSanitizer and UBSan, in build/asan
	@PYTHON=$(abspath $(PY)) sh .ci/asan

fuzz: build ## long fuzzing of the HTTP/1.1 path (FASTGW_FUZZ_SECONDS, 600 by default)
	FASTGW_FUZZ_SECONDS=$${FASTGW_FUZZ_SECONDS:-600} $(PY) -m pytest tests/fuzz -q --timeout 0

explore: build ## the properties with other examples each time; the suite has the same ones
	FASTGW_HYPOTHESIS=explore $(PY) -m pytest tests/core tests/config tests/plan tests/protocols tests/wire tests/policies -q

conformance: build $(VENV)/.test-tools ## public suites: sslyze, and those of SUITE_DIR (h2spec, testssl.sh, wstest, cache-tests)
	$(PY) -m tests.conformance

soak: build ## ten minutes of load with random kills (FASTGW_SOAK_SECONDS), 1,000 reloads under load (FASTGW_SOAK_RELOADS)
	FASTGW_SOAK_SECONDS=$${FASTGW_SOAK_SECONDS:-600} $(PY) -m pytest tests/chaos/test_soak.py -q -s --timeout 0
	FASTGW_SOAK_RELOADS=$${FASTGW_SOAK_RELOADS:-1000} $(PY) -m pytest tests/chaos/test_reloads.py -q -s --timeout 0

docs: build ## write the generated pages and schemas anew
	$(PY) -m fastgw.config.describe

clean: ## take everything built away (the virtual environment stays)
	rm -rf build .build fastgw/_core/*.c fastgw/_core/*.so fastgw/_core/*.html $(VENV)/.built
