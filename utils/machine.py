"""What kind of machine and of terminal this is, as far as can be determined without torch."""

import functools
import io
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from utils.errors import UserError

# Percent of the multiprocessors of a GPU that a process may use under NVIDIA's Multi-Process Service (MPS); CUDA reads
# it when the process turns to the GPU for the first time.
MPS_PERCENT = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
_MPS_FOLDER = "/tmp/nvidia-mps"  # where the service listens by default
MOST_THREADS = 1024  # of a run: far beyond what speeds one up, and below where systems refuse to start them


def available_cores() -> int:
    """Cores that this process may use; in a Slurm job, those that the job was given."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_ON_NODE", "")  # without a plug-in that binds processes it is only a number
    return min(cores, int(given)) if given.isdecimal() and int(given) else cores


@functools.cache
def cpu_name() -> str:
    """The processor, as its maker calls it where that can be read."""
    lines = _cpu_lines()
    if lines is None:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


@functools.cache
def has_bfloat16() -> bool | None:
    """Whether the processor multiplies matrices of bfloat16; None where that is not told."""
    flags = next((line for line in _cpu_lines() or () if line.startswith(("flags", "Features"))), None)  # x86, ARM
    return None if flags is None else not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(flags.split())


def _cpu_lines() -> list[str] | None:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None


def prepare_streams() -> None:
    """Let printing and asking go well from now on.

    Where standard input, output or errors are closed (`>&-`), the null device stands in for them, and no other file
    gets their number. `?` is printed for characters that the encoding of the output lacks, such as ± in ASCII.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, errors="replace"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def discard_output() -> None:
    """Discard whatever is printed from now on, so that the interpreter does not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def has_mps(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether NVIDIA's Multi-Process Service runs, which is one process to the GPU for all that use it."""
    return Path(environment.get("CUDA_MPS_PIPE_DIRECTORY", _MPS_FOLDER), "control").exists()


def default_mps_percent() -> float | None:
    """What a run without --mps_percent may use, by the environment; None: all multiprocessors.

    Raises:
        UserError: the variable holds no percentage.
    """
    text = os.environ.get(MPS_PERCENT, "").strip()
    if not text:
        return None
    try:
        percent = float(text)
    except ValueError:
        percent = 0.0
    if not 1 <= percent <= 100:  # as `--mps_percent`, which the recorded command has
        raise UserError(f"${MPS_PERCENT} is {text!r}, which is no percentage: change it or give --mps_percent")
    return percent


def default_threads() -> int:
    """Threads of a run without --threads: $OMP_NUM_THREADS, which other programs on the machine obey too, else one.

    More threads add numbers in another order, so that results differ; and on a shared machine they wait for each other.

    Raises:
        UserError: the variable holds no number, or one beyond `MOST_THREADS`.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip() or "1"  # a list is by level of nesting
    if not text.isdecimal() or not 1 <= int(text) <= MOST_THREADS:
        raise UserError(f"$OMP_NUM_THREADS is {text!r}, which is no number of threads: change it or give --threads")
    return int(text)
