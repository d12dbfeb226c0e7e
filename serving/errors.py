"""Errors of serving; each says what to do about it."""

from __future__ import annotations

from contracts.errors import SurgelineError


class ServingError(SurgelineError):
    """Anything that serving raises on purpose."""


class RequestError(ServingError, ValueError):
    """A score request is wrong: ``field`` is where (``items[3].price``), the message says what is allowed."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


class ScoreNotFiniteError(ServingError, ArithmeticError):
    """The trunk gave something that is not a number for a valid request: the trunk's folder is broken."""
