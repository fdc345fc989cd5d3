#!/usr/bin/env bash
# The training on all ranks, by OpenMPI: sets up on first use, then starts config.sh NP times and hands on the
# arguments as they come.
#
#   bash run.sh [options]                                    one rank a GPU, or a core where there is none
#   NP=4 bash run.sh [options]                               four ranks here
#   HOSTFILE=hosts/two_machines bash run.sh [options]        one rank a slot of the file; NP takes fewer
#   NETWORK_INTERFACE=eth0 HOSTFILE=… bash run.sh [options]  the network that joins the machines
#   bash run.sh --restarts 5 [options]                       starts the ranks again when they end too early, up to
#                                                            five times, each from the newest checkpoint
#
# The exit status is not 0 when a rank fails; docs/faults.md says what each means. Ctrl-C, SIGTERM and a closed
# terminal end the run after its step, with a checkpoint; a second time, at once.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

die() {
    printf 'run.sh: %s\n' "$*" >&2
    exit 2
}

count_gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '^[0-9GM]' || true # a number, GPU-… or MIG-…
    else
        nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true
    fi
}

# `nproc` is asked without OMP_*, which it would take for the number of cores.
default_ranks() {
    local gpus
    gpus="$(count_gpus)"
    if [ "$gpus" -gt 0 ]; then
        echo "$gpus"
    else
        env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc
    fi
}

# count_slots FILE: the ranks that a hosts file has room for, after checking every line of it.
count_slots() {
    local file="$1" line name slots rest number=0 sum=0
    local -A seen=()
    [[ -f "$file" && -r "$file" ]] || die "HOSTFILE must name a file that can be read, but is \"$file\""
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        read -r name slots rest <<<"${line%%#*}" || true
        [ -n "$name" ] || continue
        [[ "$slots" =~ ^slots=([1-9][0-9]{0,5})$ && -z "$rest" ]] ||
            die "$file, line $number, must read 'NAME slots=RANKS', but is ${line@Q}"
        [ -z "${seen[$name]:-}" ] || die "$file, line $number, names $name again: give each machine one line"
        seen[$name]=1
        sum=$((sum + BASH_REMATCH[1]))
    done <"$file"
    [ "$sum" -gt 0 ] || die "$file names no machine: give it a line like \"localhost slots=2\" for each"
    echo "$sum"
}

# The environment that ranks on other machines need, of what is set here: `-x NAME` for each.
handed_on() {
    compgen -e | grep -E '^((HOROVOD|NCCL|MXNET|OMP|GOMP|OPENBLAS|MKL|CUDA|PARTIAL_FC)_|'`
        `'(PATH|LD_LIBRARY_PATH|PYTHONPATH|PYTHON|PYTHONUNBUFFERED|LANG|LC_ALL)$)' | sed 's/^/-x\n/'
}

# This script's own option, wherever it stands; what is left is the ranks'.
restarts=0
arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        --restarts)
            [ $# -gt 1 ] || die "--restarts must be followed by a number of times"
            restarts="$2"
            shift
            ;;
        --restarts=*) restarts="${1#*=}" ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
[[ "$restarts" =~ ^(0|[1-9][0-9]{0,5})$ ]] || die "--restarts must be a number of times, 0 or more, but is \"$restarts\""

ranks="${NP:-}"
[[ -z "$ranks" || "$ranks" =~ ^[1-9][0-9]{0,5}$ ]] ||
    die "NP must be a number of ranks, 1 or more, but is \"$ranks\""
if [ -n "${HOSTFILE:-}" ]; then
    slots="$(count_slots "$HOSTFILE")"
    ranks="${ranks:-$slots}"
    [ "$ranks" -le "$slots" ] ||
        die "NP is $ranks, but the machines of $HOSTFILE have $slots slots: raise slots= there, or lower NP"
    machines=(--hostfile "$HOSTFILE")
else
    ranks="${ranks:-$(default_ranks)}"
    machines=(-H "localhost:$ranks")
fi

# With PYTHON set, the environment is the user's own.
if [ -z "${PYTHON:-}" ]; then
    bash "$root/setup.sh"
fi
command -v mpirun >/dev/null ||
    die "mpirun was not found: install OpenMPI (apt-get install openmpi-bin libopenmpi-dev)"

# TCP and shared memory carry what is small: NCCL finds InfiniBand by itself. Ranks are not bound to cores, so
# that the decoding threads of a rank find a free one.
options=(-np "$ranks" "${machines[@]}" --bind-to none --map-by slot -mca pml ob1 -mca btl '^openib')
if [ "$(id -u)" -eq 0 ]; then
    options+=(--allow-run-as-root)
fi
if [ -n "${NETWORK_INTERFACE:-}" ]; then
    options+=(-mca btl_tcp_if_include "$NETWORK_INTERFACE" -mca oob_tcp_if_include "$NETWORK_INTERFACE")
    export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-$NETWORK_INTERFACE}"
    export HOROVOD_GLOO_IFACE="${HOROVOD_GLOO_IFACE:-$NETWORK_INTERFACE}"
fi

# mpirun gives every rank a terminal for standard output, whatever its own goes to: ranks are told by this.
if [ -t 2 ]; then
    export PARTIAL_FC_PROGRESS="${PARTIAL_FC_PROGRESS:-bar}"
else
    export PARTIAL_FC_PROGRESS="${PARTIAL_FC_PROGRESS:-lines}"
fi

mapfile -t environment < <(handed_on)

# Ranks note SIGUSR1 as the wish to end, and mpirun hands it on, where it would answer SIGTERM and SIGINT by killing.
asked=""
signalled=""
# shellcheck disable=SC2317 # a trap calls it
ask_to_end() {
    signalled=1
    if [ -z "$asked" ]; then
        asked=1
        echo "run.sh: the run ends after this step, with a checkpoint; once more ends it at once" >&2
        kill -USR1 "$mpirun" 2>/dev/null || true
    else
        kill -TERM "$mpirun" 2>/dev/null || true
    fi
}

# start_ranks ARGUMENT…: runs them to their end; their status is left in $status.
start_ranks() {
    # With job control mpirun has a process group of its own: the terminal's Ctrl-C reaches this script alone.
    # Without standard input: mpirun would read it for rank 0, and stop when it runs in the background.
    set -m
    mpirun "${options[@]}" "${environment[@]}" bash "$root/config.sh" "$@" </dev/null &
    mpirun=$!
    set +m
    trap ask_to_end INT TERM HUP
    while :; do
        signalled=""
        status=0
        wait "$mpirun" || status=$?
        [ -n "$signalled" ] || break # a signal ends a wait before its time
    done
}

start_ranks "${arguments[@]}"
# Not again: what is finished (0), what the user must mend (2), numbers that would go wrong again (6).
while [[ "$restarts" -gt 0 && -z "$asked" && ! "$status" =~ ^(0|2|6)$ ]]; do
    restarts=$((restarts - 1))
    echo "run.sh: the ranks ended with status $status; they start again from the newest checkpoint" \
        "($restarts more times)" >&2
    start_ranks "${arguments[@]}" --resume auto
done
exit "$status"
