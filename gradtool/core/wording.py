"""Words that go with numbers."""

from __future__ import annotations


def counted(count: int, one: str, many: str) -> str:
    """A number and what it counts, in the singular or the plural."""
    return f"{count} {one if count == 1 else many}"
