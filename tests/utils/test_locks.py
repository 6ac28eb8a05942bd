import errno
import os
import subprocess
import sys
import threading
import time

import pytest

from utils.config.registry import ROOT
from utils.locks import held, is_held

KINDS = pytest.mark.parametrize("number", [0, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
EVERYWHERE = pytest.mark.parametrize("number", [0, errno.ENOLCK, -1])  # -1: each node has locks of its own


def run(tmp_path, number, script, **variables):
    """What a process prints that meets such a file system, and its errors."""
    start = (
        f"import os\nfrom pathlib import Path\nfrom utils.locks import *\npath = Path({str(tmp_path / 'a.lock')!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests/without_flock'}:{ROOT}", "FAKE_FLOCK": str(number)}
    environment |= variables
    words = [sys.executable, "-c", start + script]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    return done.stdout.split(), done.stderr


@KINDS
def test_one_holds_it_at_a_time_on_every_file_system(tmp_path, number):
    script = """
first, second = Lock(path), Lock(path)
print(first.take(), second.take(), is_held(path))
first.let_go()
print(second.take(), is_held(path))
second.let_go()
print(is_held(path))
"""
    shown, error = run(tmp_path, number, script)
    assert shown == ["True", "False", "True", "True", "True", "False"]
    assert error.count("has no locks") == (number != 0)  # which is said once


@KINDS
def test_what_a_killed_process_held_is_free(tmp_path, number):
    killed = "print(Lock(path).take(), flush=True)\nlock = Lock(path)\nlock.take()\nos.kill(os.getpid(), 9)"
    assert run(tmp_path, number, f"lock = Lock(path)\nprint(lock.take(), flush=True)\n{killed}")[0][0] == "True"
    assert run(tmp_path, number, "print(is_held(path), Lock(path).take())")[0] == ["False", "True"]


@KINDS
def test_another_process_is_kept_out_while_one_holds_it(tmp_path, number):
    script = """
import subprocess, sys
with held(path):
    print(is_held(path))
    code = "from pathlib import Path; from utils.locks import *; print(Lock(Path(sys.argv[1])).take())"
    print(subprocess.run([sys.executable, "-c", "import sys; " + code, path], capture_output=True, text=True).stdout)
"""
    assert run(tmp_path, number, script)[0] == ["True", "False"]


def test_it_is_waited_for(tmp_path):
    order, is_taken = [], threading.Event()

    def hold_for_a_while():
        with held(tmp_path / "a.lock"):
            is_taken.set()
            time.sleep(0.3)
            order.append("first")

    threading.Thread(target=hold_for_a_while).start()
    is_taken.wait()
    with held(tmp_path / "a.lock"):
        order.append("second")
    assert order == ["first", "second"]


def test_nothing_is_made_by_asking(tmp_path):
    assert not is_held(tmp_path / "none" / "a.lock")
    assert list(tmp_path.iterdir()) == []


# -- Jobs of Slurm on several nodes -----------------------------------------------------------------------------------


@pytest.fixture
def nodes(tmp_path):
    """Runs scripts as jobs on nodes that share a file system, and has Slurm know the jobs in such states."""
    answer = tmp_path / "squeue"
    answer.write_text("#!/bin/sh\ncat $0.txt\n")
    answer.chmod(0o755)

    def start(number, script, job=None, host="n1", **states):
        lines = [f"{name[1:]}|0|{name[1:]}|{state}|None|n1|name\n" for name, state in states.items()]
        (tmp_path / "squeue.txt").write_text("".join(lines))
        play = f"import socket\nsocket.gethostname = lambda: {host!r}\nlock = Lock(path)\n"
        variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": job or ""}
        shown, error = run(tmp_path, number, play + script, **variables)
        assert "Traceback" not in error, error
        return shown

    return start


KILLED = "print(lock.take(), flush=True)\nos.kill(os.getpid(), 9)"
TRIED = "print(is_held(path), lock.take(), is_held(path))\nlock.let_go()"


@EVERYWHERE
def test_a_job_on_another_node_is_kept_out_as_long_as_the_first_one_runs(nodes, number):
    assert nodes(number, KILLED, "7") == ["True"]
    assert nodes(number, TRIED, "8", "n2", j7="RUNNING", j8="RUNNING") == ["True", "False", "True"]
    assert nodes(number, TRIED, None, "n3", j7="COMPLETING") == ["True", "False", "True"]


@EVERYWHERE
@pytest.mark.parametrize("state", [{}, {"j7": "FAILED"}, {"j7": "PENDING"}])
def test_what_a_job_that_runs_no_more_has_claimed_is_free(nodes, number, state):
    assert nodes(number, KILLED, "7") == ["True"]
    assert nodes(number, TRIED, "8", "n2", j8="RUNNING", **state)[:2] == ["False", "True"]
    assert nodes(number, TRIED, "7", "n1", j7="RUNNING")[:2] == ["False", "True"]


@EVERYWHERE
def test_a_job_that_starts_again_takes_up_its_own_claim(nodes, number):
    assert nodes(number, KILLED, "7", "n1") == ["True"]
    assert nodes(number, TRIED, "7", "n2", j7="RUNNING")[:2] == ["False", "True"]


def test_what_was_let_go_is_free_at_once(nodes, tmp_path):
    assert nodes(-1, TRIED, "7", j7="RUNNING")[:2] == ["False", "True"]
    assert nodes(-1, TRIED, "8", "n2", j7="RUNNING", j8="RUNNING")[:2] == ["False", "True"]
    assert list((tmp_path / "a.lock.claims").iterdir()) == []


def test_where_slurm_does_not_answer_a_claim_counts(nodes, tmp_path):
    assert nodes(-1, KILLED, "7") == ["True"]
    (tmp_path / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert nodes(-1, TRIED, "8", "n2")[:2] == ["True", "False"]
