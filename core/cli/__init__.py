"""Roofscope without the pages: roofscope COMMAND [--json], or python -m core COMMAND.

Results go to stdout, progress and errors to stderr. Exit status: 0 done, 2 a request that cannot
run, 1 a run that failed, 130 stopped with Ctrl-C. A command's module is imported when the command is asked for.
"""

from core.cli.group import cli
from core.cli.terminal import protect
from core.interrupt import unheard

__all__ = ["cli", "main"]


def main(name: str = "roofscope") -> None:
    """The command of this name. Once it is over, a further Ctrl-C changes neither its status nor its words."""
    protect()
    try:
        cli(prog_name=name)
    finally:
        unheard()
