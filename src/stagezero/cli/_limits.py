"""Limits of the numbers on the command line, checked before anything is read or built."""

from __future__ import annotations

from stagezero.errors import InputError

MAX_ITEMS = 10_000
MAX_ANSWER_TOKENS = 100_000
MAX_WORKERS = 256
MAX_SEED = 2**53 - 1
MAX_PORT = 65_535


def check_number(option: str, value: float | None, low: int, high: int | None = None) -> None:
    """Refuse a number outside its limits. None stands for an option that was not given.

    Args:
        option: the option, with its dashes.
        value: its value.
        low: the smallest permitted number.
        high: the largest permitted number; None for no limit.

    Raises:
        InputError: the option, the limits, the number and the fix.
    """
    if value is None or (low <= value and (high is None or value <= high)):
        return
    limits = f"a number from {low:,} to {high:,}" if high is not None else "a positive number" if low == 1 else f"{low:,} or more"
    raise InputError(f"{option}: expected {limits}, got {value}; correct it.")
