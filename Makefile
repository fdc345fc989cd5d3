# The verbs of this project; `tests/run.sh` and `.ci/run` are what continuous integration calls.
.PHONY: setup check test bench

PYTHON := .venv/bin/python
# make bench BENCHMARKS="benchmarks/head.py benchmarks/throughput.py"
BENCHMARKS ?= benchmarks/head.py

setup:
	bash setup.sh

# What needs no run: style, shell scripts, the guides as a site, who imports whom.
check: setup
	.venv/bin/ruff check
	.venv/bin/shellcheck setup.sh config.sh run.sh tests/run.sh tests/install_chromium.sh tests/soak.sh tests/soak_rank.sh .ci/run
	.venv/bin/mkdocs build --strict --quiet
	$(PYTHON) -m pytest -q tests/test_architecture.py

test:
	bash tests/run.sh

bench: setup
	set -e; for benchmark in $(BENCHMARKS); do echo "== $$benchmark"; $(PYTHON) "$$benchmark"; done
