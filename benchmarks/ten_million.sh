#!/usr/bin/env bash
# Trains ten million identities on this machine: two ranks by OpenMPI, NP sets another number. Arguments go to
# ten_million.py, which says what they are:
#   bash benchmarks/ten_million.sh --help
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/setup.sh"

export PATH="$root/.venv/bin:$PATH"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Ranks that wait leave their core to those that compute.
export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}"
options=(-np "${NP:-2}" -H "localhost:${NP:-2}" --bind-to none -mca pml ob1 -mca btl '^openib')
if [ "$(id -u)" -eq 0 ]; then
    options+=(--allow-run-as-root)
fi
exec mpirun "${options[@]}" python "$root/benchmarks/ten_million.py" "$@" </dev/null
