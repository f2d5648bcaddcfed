"""A small part of what `tools/fuzz.py` tries, the same in each run."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tools import fuzz


@pytest.mark.parametrize(
    ("target", "count"),
    [
        (fuzz.try_consent, 30_000),
        (fuzz.try_command, 8000),
        (fuzz.try_message, 5000),
        (fuzz.try_index, 2000),
    ],
)
def test_random_inputs_break_no_promise(
    target: Callable[[random.Random], None], count: int
) -> None:
    chance = random.Random(0)
    for _ in range(count):
        target(chance)
