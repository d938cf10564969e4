# Everything from nothing: a Linux with Python 3.11, 3.12 or 3.13 and its venv module.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
# Each command of a test, a demo or a benchmark would compile all anew: a fifth of its start.
unexport PYTHONDONTWRITEBYTECODE

# The first Python that runs, is new enough and can make virtual environments; PYTHON=... overrides.
FITS := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c "$(FITS)" >/dev/null 2>&1 && echo "$$p" && break; done)

.PHONY: help base install demo test test-runs test-extras test-all check docs pages package licences graph extras locks platforms bench-quick clean

help:
	@echo "make demo          install into .venv what a run needs, and run a shipped clip"
	@echo "make base          install into .venv what a run needs: $(BASE)"
	@echo "make install       also install the tools of developers: $(TOOLS)"
	@echo "make extras        also install what training, Ray and some benchmarks need (torch is large)"
	@echo "make test          run the tests, up to 10 minutes; not those of make test-runs"
	@echo "make test-runs     run the tests of whole runs: kills, cameras, stores, learning; the wheel"
	@echo "make test-extras   run the tests that need what make extras installs"
	@echo "make test-all      run every test, also the long ones; print when all last passed"
	@echo "make check         check style, format and types"
	@echo "make bench-quick   run every benchmark with the least work"
	@echo "make docs          build a site of the documents in build/site; a dead link is an error"
	@echo "make pages         write the generated tables of the documents"
	@echo "make graph         write which folder imports which, into docs/imports.md and ARCHITECTURE.md"
	@echo "make package       build and check the wheel, the source distribution and the locked versions in build/dist"
	@echo "make licences      write the licences of everything that is shipped, and its SBOM"
	@echo "make locks         resolve the locked versions again"
	@echo "make platforms     look for a wheel of each dependency on each platform (asks the registry)"

# Measured on x86-64; CONTRIBUTING.md says how.
BASE := 215 MB to download, 745 MB on disk
TOOLS := another 1.1 GB on disk

# What pip does, as one line that tells how far it is; in a log as a line a package.
EACH = { test -t 1 && at='\r\033[K' end= || { at= end='\n'; }; of=$$(grep -c == $(1)); n=0; \
	while read -r word name _; do case $$word in \
	Collecting) n=$$((n + 1)); printf "$$at%s of %s: %s$$end" $$n $$of "$${name%%==*}";; \
	Installing) printf "$$at%s$$end" "unpacking them";; esac; done; test -z "$$at" || echo; }
LOCKED = $(if $(2),$(2),$(VENV))/bin/pip install --disable-pip-version-check --no-deps \
	--require-hashes --only-binary :all: -r $(1) | $(EACH)

base: $(VENV)/base

$(VENV)/base: locks/base.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with its venv module is needed" \
		"(Debian: apt-get install python3 python3-venv); or give PYTHON=/path/to/python"; exit 2; }
	"$(PYTHON)" -m venv $(VENV)
	@echo "installing what running needs: $(BASE)"
	@$(call LOCKED,locks/base.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install: $(VENV)/installed

$(VENV)/installed: locks/dev.txt $(VENV)/base
	@echo "installing what developers need: $(TOOLS)"
	@$(call LOCKED,locks/dev.txt)
	@touch $@

demo: base
	$(BIN)/framegate demo

# Two at once for each of two cores: a part of a test's time is that of processes which wait for each
# other, for a camera that is away, or for a deadline. With three, tests of killed brokers fail.
TESTS := $(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder
MARKS := not long and not whole_run
test: install
	$(TESTS) -m "$(MARKS)"
	@echo "these were the tests that are $(MARKS); there are also make test-runs and make test-all"

# Only the files that have some: a worker takes 9 s of CPU time to collect all tests.
test-runs: install
	$(TESTS) -m "whole_run and not long" $$(grep -rl 'mark\.whole_run' tests --include='test_*.py')

# Tests that skip without what `make extras` installs.
NEEDS_EXTRAS := importorskip\("(torch|nncf|onnx|ray)"|find_spec\("torch"\) is None
test-extras: install
	$(BIN)/pytest -n 4 --dist loadfile -m "not long" \
		$$(grep -rlE '$(NEEDS_EXTRAS)' tests --include='test_*.py')

test-all: install
	$(BIN)/python -m tests.whole_suite

# What lacks torch or the clips says so and counts as no fault.
bench-quick: install
	$(BIN)/python -m benchmarks.all --quick

# A site has an environment of its own: what makes it is no part of what runs.
docs: $(VENV)/docs/installed
	$(VENV)/docs/bin/zensical build --clean --strict

$(VENV)/docs/installed: locks/docs.txt | install
	$(BIN)/python -m venv --clear $(VENV)/docs
	@$(call LOCKED,locks/docs.txt,$(VENV)/docs)
	@touch $@

pages: install graph
	$(BIN)/python -m benchmarks.figures
	$(BIN)/python -m tests.repo.reference

graph: install
	$(BIN)/python -m tests.repo.imports

# All that a release is published with, in build/dist; the wheel and the source distribution as a
# package index would take them.
package: $(VENV)/release/installed
	rm -rf build/dist build/lib
	$(VENV)/release/bin/python -m build --no-isolation --outdir build/dist
	$(VENV)/release/bin/twine check --strict build/dist/*
	$(VENV)/release/bin/python deploy/release.py build/dist

# Also into the page and the list of what is shipped, from what is installed.
licences: $(VENV)/release/installed
	PYTHONPATH=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
		$(VENV)/release/bin/python deploy/licences.py

$(VENV)/release/installed: locks/release.txt | install
	$(BIN)/python -m venv --clear $(VENV)/release
	@$(call LOCKED,locks/release.txt,$(VENV)/release)
	@touch $@

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch from the package index brings 3 GB of CUDA libraries, which a trainer on a CPU never uses.
# `make extras TORCH=index` takes that build; TORCH=wheels takes the newest one in the folders of
# wheels that pip is configured with; another value is a back end as uv names them (cu130).
TORCH := cpu
CUDA := ^(torch|torchvision|triton|nvidia-|cuda-)
extras: install
ifeq ($(TORCH),index)
	$(BIN)/pip install --disable-pip-version-check --no-deps -r locks/extras.txt
else
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	@mkdir -p build
	grep -vE '$(CUDA)' locks/extras.txt > build/extras.txt
	$(BIN)/pip install --disable-pip-version-check --no-deps -r build/extras.txt
ifeq ($(TORCH),wheels)
	$(BIN)/pip install --disable-pip-version-check --no-deps --no-index torch torchvision
else
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --no-deps --torch-backend $(TORCH) \
		$$(grep -oE '^(torch|torchvision)==[^ ]+' locks/extras.txt) || { echo "torch for" \
		"$(TORCH) was not found; make extras TORCH=index takes the build with CUDA"; exit 1; }
endif
endif

# Left out: opencv-python (headless provides the same module, and both would overwrite each other)
# and the package by which OpenVINO reports its use over the network.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
	--no-emit-package opencv-python --no-emit-package openvino-telemetry
locks: install
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(LOCK) --generate-hashes --extra mqtt --extra notify --extra test --extra bench \
		pyproject.toml locks/build.in -o locks/dev.txt
	$(LOCK) --constraint locks/dev.txt --extra fleet --extra onnx --extra train \
		pyproject.toml -o locks/extras.txt
	$(LOCK) --constraint locks/dev.txt --generate-hashes pyproject.toml locks/build.in \
		-o locks/base.txt
	$(LOCK) --constraint locks/dev.txt --generate-hashes --extra kafka --extra login --extra mqtt \
		--extra notify pyproject.toml locks/build.in -o locks/image.txt
	$(LOCK) --constraint locks/dev.txt --generate-hashes --group docs -o locks/docs.txt
	$(LOCK) --constraint locks/dev.txt --generate-hashes --group release locks/build.in \
		-o locks/release.txt

# Not after install: to ask the registry is no reason to make the environment anew.
platforms:
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/python deploy/platforms.py

clean:
	rm -rf $(VENV) .cache demo demo-* build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
