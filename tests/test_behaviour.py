"""Whole runs and grids come to what they came to before (`tests/behaviour.py`)."""

import subprocess
import sys

import pytest

from utils.config.registry import ROOT

NAMES = (
    *("sgd", "joint", "er", "er_ace", "er_joint", "der", "derpp", "ft", "lwf", "eeil", "lucir", "podnet", "ssil"),
    *("afc", "icarl", "arrays", "mapped", "killed", "online", "offline", "validated"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_results_are_what_they_were(name):
    command = [sys.executable, "-m", "tests.behaviour", "check", name]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.stdout.strip() == "no difference", checked.stdout + checked.stderr
