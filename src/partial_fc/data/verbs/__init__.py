"""The verbs of `python -m partial_fc.data`, one a file: `HELP`, `add_options(parser)` and `run(options)`."""
