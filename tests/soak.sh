#!/usr/bin/env bash
# The toy recipe on 2 ranks under random SIGKILLs of one or all of them, each followed by a start from the newest
# checkpoint; then the same run undisturbed, which must have the same losses, bit for bit, of the same images.
#
#   bash tests/soak.sh [MINUTES [SEED]]     of training under faults, 30 when not given; the other run comes on top
#
# Prints faults made and survived, updates and images. The exit status is not 0 where anything differs.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

bash "$root/setup.sh"
export PATH="$root/.venv/bin:$PATH"
exec python "$root/tests/soak.py" "$@"
