"""Training that survives a kill: a checkpoint per epoch in the unit's scratch folder, read back on the next run.

Everything random in a trainer derives from (seed, epoch), so an interrupted run ends with the bytes of an unbroken one.
"""

from __future__ import annotations

import io
import json
import time
from typing import TYPE_CHECKING, Any

from pipelines.runtime.units import UnitOutput

if TYPE_CHECKING:
    from distill.training import Trainer

CHECKPOINT = "checkpoint.pt"
#: Seconds between checkpoints: often enough to lose little, seldom enough to cost nothing.
INTERVAL = 10.0
