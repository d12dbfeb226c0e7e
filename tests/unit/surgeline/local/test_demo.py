"""Fails when Ctrl-C or SIGTERM after a replay no longer ends the demo by its own way out: then its last word
is "Aborted!", and SIGTERM leaves broker, worker and serving behind where no kernel ties them to it.
"""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from replay.player import _interrupts
from surgeline.local.demo import SIGNALS, _Interrupted, _interruptible


async def handles_signals_itself() -> None:
    """As the player does."""
    with _interrupts(lambda: None):
        pass


@pytest.mark.skipif(os.name != "posix", reason="event loops of Windows handle no signals")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_a_replay_is_still_the_demos(number: signal.Signals) -> None:
    """A second one, while everything ends, changes nothing."""
    before = [signal.getsignal(one) for one in SIGNALS]
    with pytest.raises(_Interrupted), _interruptible():
        asyncio.run(handles_signals_itself())
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)
    assert [signal.getsignal(one) for one in SIGNALS] == before
