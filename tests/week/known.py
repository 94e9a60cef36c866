"""Bugs that a week has found and that are not corrected yet: what the rules leave out until they are.

To correct one: correct the product, then remove its line here and its mark in test_found.py.
"""

from __future__ import annotations

# Number in /work/spec/week-findings.md -> what goes wrong.
OPEN: dict[str, str] = {}
