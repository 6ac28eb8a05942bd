"""SIGKILL to the launcher and to all its children, again and again."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils.config.registry import ROOT

GRID = (
    "--preset demo --datasets seq-arrays --models er --methods BN AdaB2N --kappa 0.4 1.0 --seeds 0 1 2 "
    "--n_tasks 3 --nf 8 --lr 0.02 --epochs 3 --buffer_sizes 20 --jobs 2 --waitsecs 0.3 --checkpoint_every 0.1 "
    "--nowandb -y --group demo"
)


def launch(small_root, results, **more):
    command = [sys.executable, str(ROOT / "run.py"), *GRID.split()]
    command += ["--data_root", str(small_root), "--results_dir", str(results)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def children_of(pid):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def tables(results):
    return {path.name: path.read_bytes() for path in (results / "demo").glob("table.*")}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the children through /proc")
def test_two_launchers_share_the_work_and_one_that_is_killed_at_random_moments_ends_with_their_table(
    small_root, tmp_path
):
    both = [launch(small_root, tmp_path / "whole") for _ in range(2)]
    for launcher in both:
        shown, _ = launcher.communicate(timeout=300)
        assert launcher.returncode == 0, shown
        assert "9 of 9 runs complete" in shown
    records = [path.parent for path in (tmp_path / "whole" / "demo").glob("*/result.json")]
    assert len(records) == 9
    said = [(record / "log.txt").read_text() for record in records]
    assert all(text.count("after task 3/3") == 1 for text in said)
    moments = random.Random(1)
    for _ in range(7):
        launcher = launch(small_root, tmp_path / "killed")
        time.sleep(moments.uniform(1.0, 7.0))
        for pid in [launcher.pid, *children_of(launcher.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        launcher.communicate(timeout=60)
    last = launch(small_root, tmp_path / "killed")
    shown, _ = last.communicate(timeout=300)
    assert last.returncode == 0, shown
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole")
    assert len(tables(tmp_path / "whole")) == 3
