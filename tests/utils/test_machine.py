import io
import sys

import pytest

from utils import machine
from utils.errors import UserError
from utils.machine import available_cores, default_threads, has_bfloat16, prepare_streams


@pytest.mark.parametrize(("text", "threads"), [(None, 1), ("", 1), ("4", 4), ("3,1", 3)])
def test_one_thread_unless_the_environment_says_more(monkeypatch, text, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if text is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert default_threads() == threads


@pytest.mark.parametrize("text", ["0", "many", "-1", "100000"])
def test_no_number_is_one_line(monkeypatch, text):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(UserError, match=r"\$OMP_NUM_THREADS is .*--threads"):
        default_threads()


@pytest.mark.parametrize(
    ("lines", "has"),
    [
        (["processor : 0", "flags\t\t: fpu avx512f avx512_bf16 amx_tile"], True),
        (["flags : fpu amx_bf16"], True),
        (["flags : fpu avx2 avx512f"], False),
        (["Features : fp asimd bf16 i8mm"], True),
        (["Features : fp asimd"], False),
        ([], None),
        (None, None),
    ],
)
def test_a_processor_tells_of_its_bfloat16(monkeypatch, lines, has):
    monkeypatch.setattr(machine, "_cpu_lines", lambda: lines)
    assert has_bfloat16.__wrapped__() is has


@pytest.mark.parametrize(("given", "cores"), [(None, 8), ("", 8), ("2", 2), ("64", 8)])
def test_a_slurm_job_has_the_cores_that_it_was_given(monkeypatch, given, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    if given is not None:
        monkeypatch.setenv("SLURM_CPUS_ON_NODE", given)
    assert available_cores() == cores


def test_a_closed_stream_is_the_null_device_and_an_open_one_stays(monkeypatch):
    errors = io.StringIO()
    for name, stream in (("stdin", None), ("stdout", None), ("stderr", errors)):
        monkeypatch.setattr(sys, name, stream)
    prepare_streams()
    assert sys.stdin.read() == ""
    print("Ada\N{SUPERSCRIPT TWO} \udcff", flush=True)
    assert not sys.stdout.isatty()
    assert sys.stderr is errors
