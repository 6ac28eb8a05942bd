import signal
import subprocess
import sys

import pytest

_SIGNALS_ITSELF = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:
    raise AttributeError("half of a library") from None
"""


def interrupted(folder, start, last):
    """The exit code and the last words of a program that starts so and is interrupted as it imports `library`."""
    (folder / "library.py").write_text(_SIGNALS_ITSELF)
    # As from a terminal: what these tests are started by may ignore the signal, which its children inherit.
    heard = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heard}; sys.path.append({str(folder)!r}); {start}; {last}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize(
    "start",
    [
        "from utils.interruption import interrupt_quietly; interrupt_quietly()",
        "from utils.run.stopping import StopRequest; StopRequest().__enter__()",
    ],
)
def test_an_interrupt_within_an_import_ends_the_program_quietly(tmp_path, start):
    assert interrupted(tmp_path, start, "import library") == (128 + signal.SIGINT, "stopped by SIGINT\n")


def test_an_interrupt_within_an_import_waits_once_there_is_a_state_to_save(tmp_path):
    start = "from utils.run.stopping import StopRequest; stop = StopRequest().__enter__(); stop.defer()"
    assert interrupted(tmp_path, start, "import library; sys.exit(f'noted {stop.signal_number}')") == (1, "noted 2\n")


def test_outside_of_imports_an_interrupt_can_be_caught(tmp_path):
    start = "import os; from utils.interruption import interrupt_quietly; interrupt_quietly()"
    code, words = interrupted(tmp_path, start, "os.kill(os.getpid(), 2)")
    assert code != 128 + signal.SIGINT
    assert words.endswith("KeyboardInterrupt\n")


def test_where_interrupts_are_ignored_they_stay_so(tmp_path):
    start = "signal.signal(2, signal.SIG_IGN); from utils.interruption import interrupt_quietly"
    assert interrupted(tmp_path, start, "interrupt_quietly(); import library") == (0, "")


def test_an_interrupt_while_the_program_clears_up_is_quiet(tmp_path):
    start = "import atexit, os; from utils.interruption import interrupt_quietly, leave; interrupt_quietly()"
    last = "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT)); leave(3)"
    assert interrupted(tmp_path, start, last) == (3, "")
