"""Settings of the whole test suite."""

from __future__ import annotations

import os

from hypothesis import settings

# The same examples in every run, so that a red test is a change of the code; HYPOTHESIS_PROFILE=explore draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
