"""What the tests that kill a program have in common."""

import os
import random

POINTS = ["token", "answered", "journaled", "updated", "imaged"]  # of RXT_FAULT
FULL = os.environ.get("RXT_FULL") == "1"
SEED = int(os.environ.get("RXT_SEED", "1"))


def generator():
    return random.Random(SEED)


def check_versions(turns, first, want):
    """Reported turns (version, stm_hash) have the memories of the run that nobody disturbed."""
    for i, turn in enumerate(turns):
        assert turn["version"] == first + i + 1, turn
        assert turn["stm_hash"] == want[first + i], f"turn {first + i + 1} differs"
