"""Roofscope without the pages: roofscope COMMAND [--json], or python -m core COMMAND.

Results go to stdout, progress and errors to stderr. Exit status: 0 done, 2 a request that cannot
run, 1 a run that failed, 130 stopped with Ctrl-C.
"""

import core.cli.advising
import core.cli.analysis
import core.cli.architectures
import core.cli.checking
import core.cli.community
import core.cli.endpoints
import core.cli.listings
import core.cli.loading
import core.cli.making
import core.cli.planning
import core.cli.running
import core.cli.serving
import core.cli.sharing
import core.cli.storing
import core.cli.studying
import core.cli.sweeping
import core.cli.window  # noqa: F401 - importing a module adds its commands
from core.cli.group import cli

__all__ = ["cli", "main"]


def main() -> None:
    """The command `roofscope`."""
    cli(prog_name="roofscope")
