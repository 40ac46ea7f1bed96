"""The process that carries out a load test which the app has asked for: `python -m core.loadtest.generator ROOT ID`."""

from __future__ import annotations

import sys
from pathlib import Path

from core.loadtest.conduct import conduct
from core.loadtest.load_store import LoadStore
from core.loadtest.sending import target
from hardware.errors import ExplorerError


def main(root: str, test_id: str) -> int:
    test = LoadStore(Path(root)).open(test_id)
    test.own()
    try:
        conduct(Path(root), test, target, lambda words: print(words, flush=True))
    except ExplorerError as error:
        print(error, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
