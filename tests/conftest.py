"""Hypothesis profiles (`--hypothesis-profile=thorough` searches for longer), and where shared modules are found."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from hypothesis import Phase, settings

# `tests.crash.worlds` and `fuzz` are found in the checkout. Behind everything else, so that walstore is the one that
# is installed and not the checkout's.
sys.path.append(str(Path(__file__).parent.parent))

# No deadline: a slow machine is no failure. In CI the examples are the same on every run and nothing is left behind.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
# Many runs, or slow ones: few examples, and whatever fails first is good enough.
_UNSHRUNK = (Phase.explicit, Phase.generate)
for _name in ("mutation", "coverage"):
    settings.register_profile(_name, deadline=None, derandomize=True, database=None, max_examples=25, phases=_UNSHRUNK)
settings.register_profile("thorough", deadline=None, max_examples=5_000)
settings.load_profile("ci" if "CI" in os.environ else "local")

# A shell starts what it runs in the background with Ctrl-C ignored, and the children of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# So does nohup with the hangup.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
