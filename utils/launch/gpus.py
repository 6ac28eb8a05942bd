"""What is known about the GPUs of a machine, and who is asked: GPUtil, `nvidia-smi`, torch.

The figures come from GPUtil. It asks `nvidia-smi` without a time limit, lets its messages through to the screen and
fails on what it cannot read; it therefore runs in a process of its own, and `nvidia-smi` is asked directly where
GPUtil fails. Any figure may be unknown: on MIG devices, on old or virtual GPUs, without `nvidia-smi`.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# GPUtil imports distutils, which it needs on Windows alone: Python 3.12 has it no more, and the one of setuptools costs
# three times the rest of the question.
_ASK_GPUTIL = """\
import json, sys, types
sys.modules["distutils"] = types.ModuleType("distutils")
sys.modules["distutils"].spawn = None
import GPUtil
rows = [[gpu.id, gpu.uuid, gpu.load * 100, gpu.memoryUsed, gpu.memoryTotal, gpu.name] for gpu in GPUtil.getGPUs()]
print(json.dumps(rows))
"""
_ASK_DIRECTLY = (
    "nvidia-smi",
    "--query-gpu=index,uuid,utilization.gpu,memory.used,memory.total,name",
    "--format=csv,noheader,nounits",
)
_NUM_COMMAS = 5  # further ones belong to the name
_ASK_MODES = ("index,compute_mode,mig.mode.current", "index,compute_mode")  # old drivers know no MIG
_GPU_LINE = re.compile(r"GPU (\d+): (.*) \(UUID: .*\)")
_MIG_LINE = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-\S+)\)")
_TORCH_TIMEOUT = 180.0  # seconds; the first import from a file system of a cluster takes a minute
_ASK_TORCH = """\
import json, torch
try:
    torch.cuda.init()
    capabilities = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    print(json.dumps(["", torch.__version__, torch.cuda.get_arch_list(), capabilities]))
except Exception as error:
    print(json.dumps([str(error), torch.__version__, [], []]))
"""
_NO_UUID = ("", "N/A", "[N/A]", "[Not Supported]")


@dataclass(frozen=True)
class Gpu:
    """One GPU at one moment; None is unknown.

    Attributes:
        id: what `CUDA_VISIBLE_DEVICES` calls it: its UUID where that is known.
        index: its number in `nvidia-smi`.
        name: the product, such as `NVIDIA A100-SXM4-40GB`.
        uuid: of the GPU or the MIG device.
        load: share of the time in which it computes, 0 to 1.
        memory_used: MiB, by every process on it.
        memory_total: MiB.
        part: number of the MIG device in its GPU; None for a whole GPU.
        is_exclusive: whether a second process would be refused.
    """

    id: str
    index: int | None = None
    name: str | None = None
    uuid: str | None = None
    load: float | None = None
    memory_used: float | None = None
    memory_total: float | None = None
    part: int | None = None
    is_exclusive: bool = False

    @property
    def is_mig(self) -> bool:
        """Whether it is a MIG device, a part of a GPU."""
        return names_mig_device(self.id)

    @property
    def label(self) -> str:
        """A short name for people."""
        number = self.id if self.index is None else str(self.index)
        return f"GPU {number}" if self.part is None else f"GPU {number}:{self.part}"


def names_mig_device(name: str) -> bool:
    """Whether a name in `CUDA_VISIBLE_DEVICES` is that of a MIG device."""
    return name.startswith("MIG-")


@dataclass(frozen=True)
class Mode:
    """The modes of a GPU that limit who may use it.

    Attributes:
        compute: `Default`, `Exclusive_Process` (one process at a time) or `Prohibited`.
        is_mig: whether it is divided into MIG devices, and cannot be used as a whole.
    """

    compute: str
    is_mig: bool


class NoAnswer(Exception):
    """Nothing that can be used came back; the message says why."""


class Hung(NoAnswer):
    """No answer in time."""


def ask_gputil(timeout: float) -> list[Gpu]:
    """The GPUs as GPUtil sees them. Raises NoAnswer, or Hung after `timeout` seconds."""
    code, output, errors = _run([sys.executable, "-c", _ASK_GPUTIL], timeout)
    if code != 0:
        raise NoAnswer(_last_line(errors) or f"exit code {code}")
    gpus = [gpu for fields in _read_answer(output) for gpu in _read_row([str(field) for field in fields])]
    if not gpus:
        raise NoAnswer("it lists none")
    return gpus


def _read_answer(output: str) -> list[list]:
    """What GPUtil has listed, on the last line: an interpreter may greet before. Raises NoAnswer for anything else."""
    with contextlib.suppress(ValueError):
        rows = json.loads(_last_line(output))
        if isinstance(rows, list) and all(isinstance(row, list) for row in rows):
            return rows
    raise NoAnswer("its answer cannot be read")


def ask_nvidia_smi(timeout: float, *more: str) -> list[Gpu]:
    """The GPUs as `nvidia-smi` lists them, lines that are none left out. Raises NoAnswer, or Hung after `timeout` s."""
    code, output, errors = _run([*_ASK_DIRECTLY, *more], timeout)
    gpus = [gpu for line in output.splitlines() for gpu in _read_row(line.split(", ", _NUM_COMMAS))]
    if not gpus:
        reason = _in_one_line(output) or _in_one_line(errors) or f"nothing, with exit code {code}"
        raise NoAnswer(f"nvidia-smi says {reason[:200]}")
    return gpus


def ask_modes(timeout: float) -> dict[int | None, Mode]:
    """The modes of the GPUs, by their number in `nvidia-smi`; GPUs whose modes are unknown are left out."""
    for fields in _ASK_MODES:
        with contextlib.suppress(NoAnswer):
            code, output, _ = _run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], timeout)
            if code == 0:
                rows = [[field.strip() for field in line.split(",")] for line in output.splitlines()]
                return {int(index): Mode(compute, mig == ["Enabled"]) for index, compute, *mig in rows}
    return {}


def ask_mig_devices(timeout: float) -> list[Gpu]:
    """The MIG devices of all GPUs; nothing is known of their load and memory."""
    try:
        _, output, _ = _run(["nvidia-smi", "-L"], timeout)
    except NoAnswer:
        return []
    index, name, found = 0, "", []
    for line in output.splitlines():
        if gpu := _GPU_LINE.match(line):
            index, name = int(gpu[1]), gpu[2]
        elif device := _MIG_LINE.match(line):
            profile, part, uuid = device.groups()
            found.append(Gpu(uuid, index, f"{name} MIG {profile}", uuid, part=int(part)))
    return found


def ask_torch(interpreter: str, gpus: Sequence[Gpu], timeout: float = _TORCH_TIMEOUT) -> dict[str, str]:
    """Why torch cannot use some of the GPUs that `nvidia-smi` lists, by their ids.

    A process sees one MIG device at most, so the first of them speaks for all.

    Args:
        interpreter: the Python of the runs.
        gpus: at least one.
        timeout: seconds, after which nothing is known against them.
    """
    whole = [gpu for gpu in gpus if gpu.part is None]
    shown = ",".join(gpu.id for gpu in whole or gpus[:1])
    try:
        _, output, _ = _run([interpreter, "-c", _ASK_TORCH], timeout, os.environ | {"CUDA_VISIBLE_DEVICES": shown})
        problem, version, kernels, capabilities = json.loads(_last_line(output))
    except (NoAnswer, ValueError):
        return {}
    if problem:
        reason = problem.splitlines()[0].partition(". ")[0]
        return {gpu.id: f"torch {version} says: {reason}" for gpu in gpus}
    if not whole:
        capabilities = capabilities * len(gpus)
    return {
        gpu.id: f"torch {version} has no kernels for its compute capability {major}.{minor}"
        for gpu, (major, minor) in zip(whole or gpus, capabilities, strict=False)
        if not _has_kernels(major, minor, kernels)
    }


def _has_kernels(major: int, minor: int, kernels: Sequence[str]) -> bool:
    """Whether kernels such as `sm_80` run there: on later minor versions, and `compute_…` on all later ones."""
    made_for = [(kind, divmod(int(number), 10)) for kind, number in re.findall(r"(\w+)_(\d+)", " ".join(kernels))]
    return any(version <= (major, minor) and (version[0] == major or kind == "compute") for kind, version in made_for)


def _run(command: list[str], timeout: float, environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, output and errors of a program, which is ended with all it started if it takes too long."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise NoAnswer(f"{command[0]} cannot be started: {error}") from None
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Hung(f"{command[0]} takes longer than {timeout:g} s") from None
    finally:
        if process.returncode is None:
            _end(process)
    return process.returncode, output.decode(errors="replace"), errors.decode(errors="replace")


def _end(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)  # what hangs inside the driver cannot even be killed: it is left behind
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _read_row(fields: list[str]) -> list[Gpu]:
    """The GPU of one line; nothing for a line that is none, and for a GPU that fell off the bus."""
    if len(fields) <= _NUM_COMMAS or not fields[0].strip().isdecimal():
        return []
    index, uuid, load, used, total, name = (field.strip() for field in fields)
    if not uuid.startswith("GPU-") and uuid not in _NO_UUID:
        return []
    known = None if uuid in _NO_UUID else uuid
    share = _number(load, 0, 100)
    return [
        Gpu(
            id=known or index,
            index=int(index),
            name=name,
            uuid=known,
            load=None if share is None else share / 100,
            memory_used=_number(used, 0),
            memory_total=_number(total, 1),
        )
    ]


def _number(text: str, low: float, high: float = 1e9) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if low <= value <= high else None  # not a number is in no interval


def _last_line(text: str) -> str:
    return next(reversed(_lines(text)), "")


def _in_one_line(text: str) -> str:
    return "; ".join(_lines(text))


def _lines(text: str) -> list[str]:
    """The lines that are not blank, in letters that can be printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ["".join(letter if letter.isprintable() else "?" for letter in line) for line in lines]
