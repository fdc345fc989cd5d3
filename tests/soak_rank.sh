#!/usr/bin/env bash
# Stands for Python in config.sh, which starts it as `… -m partial_fc.train OPTIONS`: a rank that notes its images.
set -euo pipefail
exec python "$(dirname "${BASH_SOURCE[0]}")/soak_rank.py" "${@:3}"
