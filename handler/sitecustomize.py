"""Lets two of TorchServe's workers pair up before either of them loads torch.

Python runs a module of this name whenever it starts, if it finds one: TorchServe puts the archive's
folder, at whose top this file lies, on the path of its workers, and of nothing else.
"""

import sys
from pathlib import Path

from handler import pairing

if Path(sys.argv[0]).name == "model_service_worker.py":
    pairing.pair(Path(__file__).parent)
