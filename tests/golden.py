"""Reading the recorded vectors of the published programs."""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"


def cases(name: str, prefix: str = "") -> dict[str, dict[str, np.ndarray]]:
    """The cases of one file, each a dictionary of its fields; `params` holds what was set."""
    with np.load(GOLDEN / name) as file:
        described = json.loads(str(file["__meta__"]))["cases"]
        found: dict[str, dict] = {}
        for key in file.files:
            case, _, field = key.partition("/")
            if field and case.startswith(prefix):
                found.setdefault(case, {"params": described[case].get("params", {})})[field] = file[key]
    return found
