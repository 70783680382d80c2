"""One harness on the engine with one defect: ``python -m fuzz.defects DEFECT HARNESS SECONDS SEED``.

``real`` in the place of the defect is the engine as it is. Prints the tally as a line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import asdict

from fuzz.defects import DEFECTS
from fuzz.harness import Run

defect, harness, seconds, seed = sys.argv[1:]
if defect != "real":
    DEFECTS[defect].plant()
run: Run = importlib.import_module(f"fuzz.{harness}").run
tally = run(float(seconds), int(seed))
print(json.dumps(asdict(tally)), flush=True)
# Past all that runs when an interpreter ends: what hangs in this process would hang its end as well.
os._exit(0)
