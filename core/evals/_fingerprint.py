"""What an item asked, as a short hash, so that two runs are compared on equal questions only.

Of the texts before any chat template, which every model has its own of.
"""

from __future__ import annotations

import hashlib

import msgspec


def fingerprint(*asked: object) -> str:
    """Of texts, numbers and sequences of them; equal ones give the same hash on every machine."""
    return hashlib.sha256(msgspec.json.encode(asked, enc_hook=str)).hexdigest()[:16]
