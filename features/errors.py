"""What is wrong with a declaration."""

from __future__ import annotations

from contracts.errors import SurgelineError


class FeaturesError(SurgelineError, ValueError):
    """A declaration that cannot be used; the message names the entry and what is allowed."""
