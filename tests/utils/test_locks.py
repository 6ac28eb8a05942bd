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


def run(tmp_path, number, script):
    """What a process prints that meets such a file system, and its errors."""
    start = (
        f"import os\nfrom pathlib import Path\nfrom utils.locks import *\npath = Path({str(tmp_path / 'a.lock')!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests/without_flock'}:{ROOT}", "FAKE_FLOCK": str(number)}
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
