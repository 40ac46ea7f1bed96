"""python -m core: see core.cli."""

from core.cli import cli

if __name__ == "__main__":
    cli(prog_name="python -m core")
