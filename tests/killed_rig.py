"""Runs as processes of their own, for tests that end them, and what these leave in their records."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from utils.config.registry import ROOT

PATIENCE = 60.0  # seconds for anything that has to happen


def command(words: str, results: Path, *more: str) -> list[str]:
    """The command line of a run on one thread."""
    fixed = ("--threads", "1", "--device", "cpu", "--results_dir", str(results), "--nowand")
    return [sys.executable, str(ROOT / "utils" / "main.py"), *words.split(), *fixed, *more]


def result_of(results: Path) -> dict:
    """What the only complete run found, without its timings."""
    (path,) = results.rglob("result.json")
    result = json.loads(path.read_text())
    return {name: result.get(name) for name in ("metrics", "counts", "anytime", "points", "weights_sha256", "steps")}


def metrics_of(results: Path) -> str:
    """All lines of the only run; none before it has written one."""
    return "".join(path.read_text() for path in results.rglob("metrics.jsonl"))


def wait_for(condition: Callable[[], object]) -> None:
    """Until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
