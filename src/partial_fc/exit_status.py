"""What a run's exit status says: `docs/faults.md` has the table, `run.sh` decides by it whether to start again."""

FINISHED = 0
MISTAKE = 1  # of the program, or what nobody foresaw on one rank
REFUSED = 2  # what the user can mend: an option, a file, a machine too small
PEER_LOST = 3
STALLED = 4
RANKS_DIFFER = 5
NUMBERS_WENT_WRONG = 6
STOPPED = 75  # asked to end: a checkpoint is saved, and the run goes on from it with --resume auto
INTERRUPTED = 130  # asked twice: nothing is saved
