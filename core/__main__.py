"""The command line, as `python -m core` and as `roofscope`: see core.cli."""

from core.interrupt import at_once


def main(name: str = "roofscope") -> None:
    """The command of this name. Importing takes a third of a second, in which Ctrl-C is heard, too."""
    at_once()
    from core.cli import main

    main(name)


if __name__ == "__main__":
    main("python -m core")
