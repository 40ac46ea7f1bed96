from pathlib import Path

from tests.support.tiny import hf_folder


def make(folder: Path) -> tuple[str, str]:
    return str(hf_folder(folder)), "hf"
