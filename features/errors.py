"""What is wrong with a declaration."""

from __future__ import annotations


class FeaturesError(ValueError):
    """A declaration that cannot be used; the message names the entry and what is allowed."""
