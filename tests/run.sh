#!/usr/bin/env bash
# The checks and all tests, after making the environment where it is missing. Arguments go to pytest:
#   bash tests/run.sh tests/head -k margin
#   bash tests/run.sh -n 0 --pdb tests/head      in one process, which a debugger asks for
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

bash "$root/setup.sh"
bash "$root/tests/install_chromium.sh"

cd "$root"
export PATH="$root/.venv/bin:$PATH"
# Tests start many small processes: with one BLAS thread each, a result does not depend on the machine's cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

ruff check
shellcheck setup.sh config.sh run.sh tests/run.sh tests/install_chromium.sh tests/soak.sh tests/soak_rank.sh .ci/run
mkdocs build --strict --quiet
# Two processes, whatever the machine: some tests start up to eight ranks. Each takes its half in order, so that a
# file's fixtures are made once, and then what the other has left.
python -m pytest -n 2 --dist worksteal --durations=15 "$@"
