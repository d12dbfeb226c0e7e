"""What can go wrong with the state on disk."""

from __future__ import annotations


class StateError(RuntimeError):
    """The state cannot be used; the message says what to do."""


class StateLockedError(StateError):
    """Another process holds this state folder."""


class StateFormatError(StateError):
    """The state on disk was written by another version or with other settings."""
