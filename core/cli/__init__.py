"""Roofscope without the pages: roofscope COMMAND [--json], or python -m core COMMAND.

Results go to stdout, progress and errors to stderr. Exit status: 0 done, 2 a request that cannot
run, 1 a run that failed, 130 stopped with Ctrl-C. A command's module is imported when the command is asked for.
"""

from core.cli.group import cli

__all__ = ["cli", "main"]


def main() -> None:
    """The command `roofscope`."""
    cli(prog_name="roofscope")
