"""What can go wrong in a replay: small typed errors whose message says what to do."""

from __future__ import annotations

from contracts.errors import SurgelineError


class ReplayError(SurgelineError, RuntimeError):
    """Base of everything that `replay/` raises on purpose; the command line prints it without a trace."""


class LogError(ReplayError):
    """A log cannot be read as it stands; the message names the file, column or row."""


class LogNotFoundError(LogError, ValueError):
    """No such log: the message lists what is known and where it was looked for."""


class MappingError(LogError, ValueError):
    """A column mapping (TOML) is wrong; the message names the field and the allowed values."""


class DownloadError(LogError):
    """A log that is fetched on first use could not be fetched."""


class PaceError(ReplayError, ValueError):
    """A speed, rate or time mode that cannot be used; the message names the allowed values."""


class BrokerError(ReplayError):
    """The broker cannot be reached, or its topics cannot be used."""
