#!/usr/bin/env bash
# The checks and all tests, after making the environment where it is missing. Arguments go to pytest:
#   bash tests/run.sh tests/head -k margin
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
python -m pytest --durations=15 "$@"
# The short form of tests/soak.sh, where everything runs: some three minutes.
if [ $# -eq 0 ]; then
    python tests/soak.py 1.5
fi
