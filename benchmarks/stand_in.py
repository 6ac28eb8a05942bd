"""A run that takes no time of its own: writes a complete record of two tasks into a folder, after so many seconds.

python benchmarks/stand_in.py FOLDER OPTIONS SECONDS
"""

import json
import os
import sys
import time


def main() -> None:
    folder, options, seconds = sys.argv[1:]
    time.sleep(float(seconds))
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103, for pathlib's import is a third of the whole program
    values, environment = json.loads(options), {"device": "cpu"}
    write(folder, "config.json", {"values": values, "command": [], "plugins": [], "environment": environment})
    counts = {"class_il": [[80, None], [60, 70]], "task_il": [[90, None], [85, 88]], "total": [[100, None], [100, 100]]}
    timings = {"training_seconds": float(seconds), "evaluation_seconds": 0.0}
    metrics = {"class_il": {"A_f": 65.0}, "task_il": {"A_f": 86.5}}
    result = {"metrics": metrics, "counts": counts, "untrained": None, "anytime": [80.0, 65.0], "timings": timings}
    write(folder, "result.json", result)


def write(folder: str, name: str, content: dict) -> None:
    """One JSON file of the record."""
    with open(f"{folder}/{name}", "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump({"schema": 1, **content}, file)


if __name__ == "__main__":
    main()
