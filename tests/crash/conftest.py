"""Makes ``worlds`` importable under the name that the type checker knows it by: test folders are not on the path."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_NAME = "tests.crash.worlds"

if _NAME not in sys.modules:
    _spec = spec_from_file_location(_NAME, Path(__file__).with_name("worlds.py"))
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules[_NAME] = module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_NAME])
