"""A process whose wall clock is ahead by ``MOVED_CLOCK_S`` seconds: Python imports this where it starts."""

import os
import time

_AHEAD_S = float(os.environ["MOVED_CLOCK_S"])
_true_time, _true_time_ns = time.time, time.time_ns
time.time = lambda: _true_time() + _AHEAD_S
time.time_ns = lambda: _true_time_ns() + round(_AHEAD_S * 1e9)
