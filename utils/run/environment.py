"""The machine that a run is on: device, threads, arithmetic, and their description in the record."""

import os
import platform
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from utils.config.checks import WORKSPACE, WORKSPACES, check_arithmetic
from utils.config.registry import ROOT
from utils.errors import NoDevice, UserError
from utils.machine import MPS_PERCENT, available_cores, cpu_name, default_mps_percent, has_bfloat16, has_mps

_AMPERE = (8, 0)
# In which convolutions are fastest, by kind of device and precision, as measured on a CPU and on an H100
# (`benchmarks/results`).
_MEMORY_FORMATS = {
    ("cpu", "fp32"): torch.channels_last,
    ("cpu", "bf16"): torch.channels_last,
    ("cuda", "fp32"): torch.contiguous_format,
    ("cuda", "tf32"): torch.channels_last,
    ("cuda", "bf16"): torch.channels_last,
}
_CODE = ("backbone", "datasets", "models", "utils", "run.py")


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first GPU, or else the CPU.

    Raises:
        NoDevice: PyTorch finds no GPU that it can use.
        UserError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r} is not a device: auto, cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"--device {name!r} is not supported: auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise NoDevice(f"--device {name}: this machine has no usable GPU; use --device cpu")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise UserError(f"--device {name}: there are only {torch.cuda.device_count()} GPUs, counted from 0")
    if device.index is not None:
        torch.cuda.set_device(device)  # what names no device, such as pinned memory, would else open another one
    return device


def limit_multiprocessors(percent: float | None, former: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Use no more than a part of a GPU, before it is used for the first time; a run that resumes keeps its part.

    Convolutions are chosen by the number of multiprocessors, and take their sums in another order with another one.

    Args:
        percent: of the multiprocessors, from `--mps_percent`; None: as the environment says.
        former: how the start that is resumed describes its environment; empty for a new run.
        say: called with a note if the percentage is not followed.
    """
    asked = default_mps_percent() if percent is None else percent
    began_on_gpu = former.get("device", "cpu") != "cpu"
    kept = former.get("mps_percent") if began_on_gpu else asked
    if kept != asked and percent is not None:
        began = "all" if kept is None else f"{kept:g}"
        say(f"note: --mps_percent {percent:g} is ignored: the run resumes with {began}, as it started")
    os.environ.pop(MPS_PERCENT, None)
    if kept is not None:
        os.environ[MPS_PERCENT] = f"{kept:g}"


def check_multiprocessors(
    device: torch.device, percent: float | None, former: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    """Say where a part of a GPU is not to be had, or a run goes on with another one.

    Args:
        device: of the run.
        percent: from `--mps_percent`.
        former: how the start that is resumed describes its environment; empty for a new run.
        say: called with a note.
    """
    if percent is not None and device.type != "cuda":
        say("note: --mps_percent has no effect: the run uses no GPU")
    elif percent is not None and percent < 100 and not has_mps():
        say("note: --mps_percent has no effect: the Multi-Process Service does not run (nvidia-cuda-mps-control -d)")
    began = former.get("multiprocessors")
    found = None if device.type != "cuda" else torch.cuda.get_device_properties(device).multi_processor_count
    if began is not None and found not in (None, began):
        say(f"note: the run began on {began} multiprocessors and goes on on {found}, which by itself changes results")


def set_arithmetic(device: torch.device, precision: str, fast: bool, threads: int) -> None:
    """Fix the arithmetic of the process: deterministic kernels unless `fast`, TF32 only where it is asked for.

    TF32 is for convolutions. Matrix products are not the network's alone: they resize crops and give cosines.
    """
    check_arithmetic(device.type, precision, fast)
    _check_precision(device, precision)
    torch.set_num_threads(threads)
    if hasattr(torch.backends.cudnn, "conv"):  # from torch 2.9 on, which warns of the older switches
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    else:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = fast
    if not fast:
        os.environ.setdefault(WORKSPACE, WORKSPACES[0])
    # The same switch as use_deterministic_algorithms, without its seconds of importing torch's compiler.
    torch.set_deterministic_debug_mode("default" if fast else "error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # the module's own class has it


def _check_precision(device: torch.device, precision: str) -> None:
    if device.type == "cpu" and precision == "bf16" and has_bfloat16() is False:
        warnings.warn(
            "this processor has no instructions for bfloat16: --precision bf16 may be slower than fp32", stacklevel=3
        )
    if precision == "fp32" or device.type == "cpu":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < _AMPERE:
        name = torch.cuda.get_device_name(device)
        raise UserError(
            f"--precision {precision} needs a GPU of compute capability 8.0 or more, and {name} has "
            f"{capability[0]}.{capability[1]}: use --precision fp32"
        )


def choose_memory_format(device: torch.device, precision: str) -> torch.memory_format:
    """How images, maps and the weights of convolutions lie in memory."""
    return _MEMORY_FORMATS[device.type, precision]


def describe(
    device: torch.device, threads: int, memory_format: torch.memory_format, norm_compiler: str | None
) -> dict[str, Any]:
    """Versions, hardware and how it is used, for the record.

    Args:
        device, threads, memory_format: of the run.
        norm_compiler: what has made the kernels that norm layers train with; None: they have none.
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "suite": _git_state(),
        "system": platform.system(),
        "cpu": cpu_name(),
        "cores": available_cores(),
        "threads": threads,
        "memory_format": str(memory_format).removeprefix("torch."),
        "fused_norms": norm_compiler is not None,
        "norm_compiler": norm_compiler,
        **_describe_gpu(device),
    }


def _describe_gpu(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"device": "cpu"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "mps_percent": default_mps_percent(),
    }


def peak_memory(device: torch.device) -> dict[str, int]:
    """Largest memory of this process so far, in bytes: on the host, and on the device if it is a GPU.

    The latter is the allocator's own count: nothing waits for the device.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["device_bytes"] = torch.cuda.max_memory_reserved(device)
    return peak


def _git_state() -> str | None:
    """The commit of the suite, with `-dirty` if its code is not that commit's: untracked files count."""
    commit = _git("describe", "--always", "--abbrev=12")
    if commit is None:
        return None
    return f"{commit}-dirty" if _git("status", "--porcelain", "--", *_CODE) else commit


def _git(*words: str) -> str | None:
    """What git prints in the suite's folder, without white space around; None if there is no git, or no repository."""
    command = ["git", "-C", str(ROOT), *words]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None
