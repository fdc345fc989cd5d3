#!/usr/bin/env bash
# One rank of the training: its environment, then the training command with the arguments as they come.
#
#   horovodrun -np 8 -H localhost:8 bash config.sh [-- options]   eight ranks here
#   horovodrun -np 16 -H ip1:8,ip2:8 bash config.sh [-- options]  two machines
#   bash config.sh --help                                         the options
#
# What is set already stays as it is. PYTHON names another interpreter than the one of .venv.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

python="${PYTHON:-$root/.venv/bin/python}"
if [ -z "${PYTHON:-}" ] && [ ! -x "$python" ]; then
    python=python3
fi

# The root comes first: `symbol/` and `default.py` lie there.
export PYTHONPATH="$root:$root/src${PYTHONPATH:+:$PYTHONPATH}"

# This rank's share of the cores. MXNet would take half of the machine's for each rank, so that eight ranks
# stand in each other's way.
ranks_here="${HOROVOD_LOCAL_SIZE:-${OMPI_COMM_WORLD_LOCAL_SIZE:-1}}"
share=$(($(nproc) / ranks_here))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}"
export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-$OMP_NUM_THREADS}"
export MKL_NUM_THREADS="${MKL_NUM_THREADS:-$OMP_NUM_THREADS}"

# Horovod's thread waits inside MPI by spinning, on a core that this rank's own operators need. Yielding
# instead makes a step of 2 ranks on 2 cores 1.5 times as fast, and one of 8 ranks on 2 cores 6 times.
export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}"

# Containers commonly forbid the system call by which OpenMPI copies straight from another process, and it
# then reports an error for each message: copy through shared memory there.
if [ -e /.dockerenv ] || [ -e /run/.containerenv ]; then
    export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism:-none}"
fi

exec "$python" -m partial_fc.train "$@"
