"""One file a subcommand: `HELP`, `EXAMPLE` (copy-pasteable), `add_arguments(parser)` and `run(args) -> exit code`.

A command's module imports nothing heavy at its top, so that `--help` answers at once; `run` imports what it needs.
"""
