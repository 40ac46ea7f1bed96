from pathlib import Path

from tests.support.tiny import heads_folder


def make(folder: Path) -> tuple[str, str]:
    return str(heads_folder(folder)), "hf"
