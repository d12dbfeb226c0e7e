"""A process whose wall clock is ahead by ``MOVED_CLOCK_S`` seconds: Python imports this where it starts."""

import os
import time

if ahead := os.environ.get("MOVED_CLOCK_S"):
    _true_time, _true_time_ns = time.time, time.time_ns
    time.time = lambda: _true_time() + float(ahead)
    time.time_ns = lambda: _true_time_ns() + round(float(ahead) * 1e9)
