"""Real signals to real processes."""

import os
import random
import signal
import subprocess
import time

import pytest

from tests import killed_rig
from tests.killed_rig import result_of, wait_for

WORDS = (
    "--model er_ace --dataset seq-arrays --n_tasks 3 --nl AdaB2N --nf 4 --lr 0.01 --buffer_size 20 --epochs 12 "
    "--log_every 3"
)


def command(small_root, results, *more):
    return killed_rig.command(WORDS, results, "--data_root", str(small_root), *more)


def wait_for_file(results, name):
    """Until the run has written that file."""
    wait_for(lambda: list(results.rglob(name)))


@pytest.fixture(scope="module")
def whole(small_root, tmp_path_factory):
    results = tmp_path_factory.mktemp("whole")
    subprocess.run(command(small_root, results), check=True, capture_output=True)
    return result_of(results)


@pytest.mark.slow
def test_killed_at_five_random_moments_it_ends_the_same(small_root, tmp_path, whole):
    moments = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen(
            command(small_root, tmp_path, "--checkpoint_every", "0.05"), stdout=subprocess.DEVNULL
        )
        wait_for_file(tmp_path, "checkpoint.pt")
        time.sleep(moments.uniform(0, 1.5))
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0)
    finished = subprocess.run(command(small_root, tmp_path), check=True, capture_output=True, text=True)
    assert "resuming" in finished.stdout or "already complete" in finished.stdout
    assert result_of(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_it_saves_and_goes_on(small_root, tmp_path, whole, number, code):
    process = subprocess.Popen(
        command(small_root, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    wait_for_file(tmp_path, "metrics.jsonl")
    os.kill(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in error
    assert list(tmp_path.rglob("checkpoint.pt"))
    subprocess.run(command(small_root, tmp_path), check=True, capture_output=True)
    assert result_of(tmp_path) == whole


@pytest.mark.slow
def test_full_disk_is_one_line_and_the_run_goes_on_later(small_root, tmp_path, whole):
    """A limit on the size of files stands for the disk: the checkpoint does not fit, the rest does."""
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
    start = "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    python, *words = command(small_root, tmp_path, "--checkpoint_every", "0")
    stopped = subprocess.run([python, "-c", limit + start, *words], capture_output=True, text=True, check=False)
    assert stopped.returncode == 5, stopped.stderr
    assert stopped.stderr.startswith("error: cannot write")
    assert stopped.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.part"))
    subprocess.run(command(small_root, tmp_path), check=True, capture_output=True)
    assert result_of(tmp_path) == whole


@pytest.mark.slow
def test_stopped_while_it_starts_it_is_quiet(small_root, tmp_path):
    process = subprocess.Popen(command(small_root, tmp_path), stderr=subprocess.PIPE, text=True)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
