"""Settings of all tests: no property test fails because the machine was slow."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("surgeline", deadline=None)
# In CI the examples are the same each time: what fails there, fails here.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "surgeline")
