import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.utils.launch.rig import FakeDevices, FakeJob, FakeSlot, job
from tests.utils.records.rig import progress
from utils.errors import UserError
from utils.launch.job import CommonOptions
from utils.launch.local import Child, LocalEngine, tail

PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(sys.argv[2], "w").write(str(child.pid))
{then}
"""


@pytest.fixture
def engine(tmp_path):
    """Starts the program that is its folder's `program.py`."""
    return make_engine(tmp_path)


def make_engine(root, **devices):
    common = CommonOptions(root, "group", root)
    return LocalEngine(common, root / "logs", FakeDevices(9, **devices), program=root / "program.py")


def run(engine, each, text):
    """Start a job of that program; gives the child and the ends that are told, still without one."""
    engine._program.write_text(text)
    ends = []
    return engine.start(each, lambda child, code: ends.append(code)), ends


def finish(ends, seconds=20):
    deadline = time.monotonic() + seconds
    while not ends and time.monotonic() < deadline:
        time.sleep(0.01)
    return ends[0]


def is_over(pid, seconds=10):
    """Whether a process ends in that time; one that nobody has asked for its exit code has ended too."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_command_line_can_be_run_by_hand(engine, tmp_path):
    words = engine.command(job(tmp_path, "one", seconds=1), FakeSlot(arguments=("--device", "cpu")))
    assert words[:2] == [sys.executable, str(tmp_path / "program.py")]
    assert words[2:6] == ["--name", "one", "--seconds", "1"]
    assert words[words.index("--group") + 1] == "group"
    assert words[-2:] == ["--device", "cpu"]


def test_a_run_has_the_parents_environment_and_its_places(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("OF_THE_PARENT", "kept")
    program = "import os\nprint(os.environ['OF_THE_PARENT'], os.environ['CUDA_VISIBLE_DEVICES'])"
    monkeypatch.setattr(engine._devices, "slot", FakeSlot(environment={"CUDA_VISIBLE_DEVICES": "GPU-a"}))
    child, ends = run(engine, job(tmp_path, "one"), program)
    assert finish(ends) == 0
    assert child.last_lines() == ["kept GPU-a"]


def test_what_a_run_printed_last_is_why_it_ended(engine, tmp_path):
    program = "import sys\nprint('x' * 100_000)\nprint('one')\nprint('two  ', file=sys.stderr)\nprint()\nsys.exit(7)"
    child, ends = run(engine, job(tmp_path, "one"), program)
    assert finish(ends) == 7
    assert child.last_lines(2) == ["one", "two"]
    assert child.last_words(7) == "two"


def test_why_a_run_ended_is_told_without_the_word_error_of_its_own(engine, tmp_path):
    child, ends = run(engine, job(tmp_path, "one"), "import sys\nprint('error: no such option')\nsys.exit(2)")
    assert finish(ends) == 2
    assert child.last_words(2) == "no such option"
    assert child.last_lines() == ["error: no such option"]


IN_TURN = """
import os, sys, time
print("mine" if sys.argv[2] == "first" else "another process is at it", flush=True)
while sys.argv[2] == "first" and not os.path.exists(sys.argv[0] + ".go on"):
    time.sleep(0.01)
sys.exit(0 if sys.argv[2] == "first" else 6)
"""


def test_a_launcher_that_finds_a_run_taken_leaves_its_log_alone(engine, tmp_path, monkeypatch):
    """Two launchers that start the same run at once."""
    folder = tmp_path / "logs"
    first, second = (FakeJob("one", ("--name", word), job(tmp_path, "one").record) for word in ("first", "second"))
    child, ends = run(engine, first, IN_TURN)
    with monkeypatch.context() as patch:
        patch.setattr("utils.launch.local.os.getpid", lambda: 1)
        _, other_ends = run(engine, second, IN_TURN)
    assert finish(other_ends) == 6
    assert [path.name for path in folder.iterdir()] == [child.log_path.name]
    while not child.last_lines():
        time.sleep(0.01)
    (tmp_path / "program.py.go on").touch()
    assert finish(ends) == 0
    assert child.log_path == folder / "one.txt"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"one.txt": "mine\n"}


def test_a_run_that_is_started_again_replaces_its_log(engine, tmp_path):
    for text in ("one", "two"):
        child, ends = run(engine, job(tmp_path, "one"), f"print({text!r})")
        assert finish(ends) == 0
        assert child.last_lines() == [text]
    assert [path.read_text() for path in (tmp_path / "logs").iterdir()] == ["two\n"]


def test_a_run_that_printed_nothing_is_told_by_its_exit_code(engine, tmp_path, monkeypatch):
    child, ends = run(engine, job(tmp_path, "one"), "import os\nos._exit(9)")
    assert finish(ends) == 9
    assert child.last_words(9) == "exit code 9 without any output"
    assert child.true_code(9) == 9
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 0))
    assert "is full" in child.last_words(9)
    assert [child.true_code(code) for code in (9, 0, -9, 6)] == [5, 0, -9, 6]
    child.log_path.write_text("a reason")
    assert child.true_code(9) == 9


@pytest.mark.parametrize(("number", "words"), [(signal.SIGKILL, "memory"), (signal.SIGSEGV, "Segmentation")])
def test_a_run_that_a_signal_ended_is_told_so(engine, tmp_path, number, words):
    child, ends = run(
        engine, job(tmp_path, "one"), f"import os\nprint('step', flush=True)\nos.kill(os.getpid(), {int(number)})"
    )
    assert finish(ends) == -number
    assert words in child.last_words(-number)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc whether a process is alive")
@pytest.mark.parametrize("code", [0, 1])
def test_what_a_run_leaves_running_ends_with_it(engine, tmp_path, code):
    _, ends = run(
        engine,
        job(tmp_path, str(tmp_path / "pid")),
        PARENT.format(then=f"sys.exit({code})"),
    )
    assert finish(ends) == code
    assert is_over(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc whether a process is alive")
def test_a_run_that_is_killed_takes_what_it_started_with_it(engine, tmp_path):
    each = job(tmp_path, str(tmp_path / "pid"))
    child, ends = run(engine, each, PARENT.format(then="time.sleep(60)"))
    path, deadline = tmp_path / "pid", time.monotonic() + 20
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.stop(signal.SIGKILL)
    assert finish(ends) == -signal.SIGKILL
    assert child.killed
    assert is_over(int(path.read_text()))
    child.stop()  # too late, and no failure


def test_a_run_is_asked_by_sigterm_alone(engine, tmp_path):
    program = "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(143))\n"
    program += "print('ready', flush=True)\ntime.sleep(60)"
    child, ends = run(engine, job(tmp_path, "one"), program)
    while not child.last_lines() and not ends:
        time.sleep(0.01)
    child.stop()
    assert finish(ends) == 143
    assert not child.killed


def test_an_interpreter_that_is_none_is_named_before_anything_starts(tmp_path):
    with pytest.raises(UserError, match="--interpreter /nowhere/python"):
        make_engine(tmp_path, interpreter="/nowhere/python")


def test_a_place_for_logs_that_cannot_be_is_named_before_anything_starts(tmp_path):
    (tmp_path / "logs").write_text("")
    with pytest.raises(UserError, match="--logdir"):
        make_engine(tmp_path)


def test_a_log_that_cannot_be_written_stops_no_run_and_is_said_once(tmp_path):
    said = []
    engine = make_engine(tmp_path, say=said.append)
    shutil.rmtree(tmp_path / "logs")
    (tmp_path / "logs").write_text("a file")
    for name in ("one", "two"):
        each = job(tmp_path, name)
        each.record.folder.mkdir(parents=True)
        each.record.log_path.write_text(f"log of {name}\n")
        child, ends = run(engine, each, "print('printed')")
        assert finish(ends) == 0
        assert child.last_lines() == [f"log of {name}"]
    assert len(said) == 1
    assert str(tmp_path / "logs" / "one.") in said[0]


def test_the_start_of_a_run_lasts_until_its_first_step(tmp_path):
    child = Child(job(tmp_path, "one"), FakeSlot(), None, tmp_path / "log", started=time.monotonic() - 30)
    assert child.seconds_to_start(progress(started=time.time() - 20)) == pytest.approx(10, abs=0.5)
    assert child.seconds_to_start(progress(started=time.time() - 50)) == 0.0


CUDA_ERROR = """\
Traceback (most recent call last):
  File "main.py", line 1, in <module>
    main()
torch.AcceleratorError: CUDA error: an illegal memory access was encountered
Search for `cudaErrorIllegalAddress' in https://docs.nvidia.com for more information.
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.

"""


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        (CUDA_ERROR, "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"),
        ("Traceback (most recent call last):\n  a\nValueError: one\n\nDuring …:\n\n" + CUDA_ERROR, "torch.Accelerator"),
        ("after task 1\nerror: give another --lr\n", "give another --lr"),
        ("Traceback (most recent call last):\n  cut off", "  cut off"),
    ],
)
def test_the_last_words_are_what_went_wrong_and_not_the_advice_after_it(tmp_path, printed, words):
    child = Child(job(tmp_path, "one"), FakeSlot(), None, tmp_path / "log")
    child.log_path.write_text(printed)
    assert child.last_words(1).startswith(words)


def test_tail_of_a_file_in_no_encoding(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one\n\xff\xfe two\n")
    assert tail(path)[1].endswith(" two")
    assert tail(path, 5) == [" two"]
    assert tail(tmp_path) == tail(tmp_path / "none") == []
