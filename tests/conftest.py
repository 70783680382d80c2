"""Hypothesis profiles; `--hypothesis-profile=thorough` searches for longer."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: a slow machine is no failure. In CI the examples are the same on every run and nothing is left behind.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=5_000)
settings.load_profile("ci" if "CI" in os.environ else "local")
