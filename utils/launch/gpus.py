"""The GPUs that the caller may use, and what is known of their load and memory.

The figures come from GPUtil. It asks `nvidia-smi` without a time limit, lets its messages through to the screen and
fails on what it cannot read; it therefore runs in a process of its own, and `nvidia-smi` is asked directly where
GPUtil fails. Any figure may be unknown: on MIG devices, on old or virtual GPUs, without `nvidia-smi`.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

DEVICE_FOLDER = Path("/dev")  # where the driver shows its GPUs as nvidia0, nvidia1, …
QUERY_TIMEOUT = 15.0  # seconds; `nvidia-smi` may take several where the driver is not kept loaded
REST_AFTER_HANG = 60.0  # seconds in which an `nvidia-smi` that hung is left alone

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
        memory_used: MB, by every process on it.
        memory_total: MB.
    """

    id: str
    index: int | None = None
    name: str | None = None
    uuid: str | None = None
    load: float | None = None
    memory_used: float | None = None
    memory_total: float | None = None

    @property
    def label(self) -> str:
        """A short name for people."""
        return f"GPU {self.id if self.index is None else self.index}"


class NoAnswer(Exception):
    """Nothing that can be used came back; the message says why."""


class Hung(NoAnswer):
    """No answer in time."""


class GpuWatcher:
    """Looks at the GPUs within the caller's `CUDA_VISIBLE_DEVICES`.

    Which GPUs these are is settled by the first look that can tell. A later one finds the same ones in another state,
    or not at all where one fell off the bus: the others' numbers may change then, their UUIDs do not.

    Args:
        say: is told, once for each cause, what cannot be known.
        environment: where `CUDA_VISIBLE_DEVICES` is read.
        timeout: seconds that one question may take.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        environment: Mapping[str, str] = os.environ,
        timeout: float = QUERY_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._environment = environment
        self._timeout = timeout
        self._clock = clock
        self._said: set[str] = set()
        self._chosen: list[Gpu] = []  # as they were when they were settled
        self._gputil_works = True
        self._rest_until = float("-inf")

    def look(self) -> list[Gpu]:
        """The GPUs that can be used, in the caller's order. Takes as long as `nvidia-smi` does."""
        text = self._environment.get("CUDA_VISIBLE_DEVICES")
        names, mistake = visible_names(text), mistaken_name(text)
        if mistake is not None:
            self._say_once(f"CUDA_VISIBLE_DEVICES names {mistake!r}, which is no GPU and hides itself and what follows")
        if names == []:
            return []
        found = self._find()
        if found is None:
            return self._without_figures(names)
        if not self._chosen:
            self._chosen = self._choose(names, found)
        answering = {gpu.id: gpu for gpu in found} | {gpu.id: gpu for gpu in self._chosen if _is_mig(gpu.id)}
        return [answering[gpu.id] for gpu in self._chosen if gpu.id in answering]

    def _find(self) -> list[Gpu] | None:
        """Every GPU of the machine that answers; None if nobody can tell."""
        if shutil.which("nvidia-smi") is None:
            if _num_device_files():
                self._say_once("nvidia-smi is not on the PATH: nothing is known of the GPUs' load and memory")
            return None
        if self._clock() < self._rest_until:
            return None
        try:
            return self._ask()
        except Hung:
            self._rest_until = self._clock() + REST_AFTER_HANG
            hung = f"nvidia-smi does not answer within {self._timeout:g} s"
            self._say_once(f"{hung}: nothing is known of the GPUs' load and memory")
            return None
        except NoAnswer as problem:
            self._say_once(f"no GPU can be used: {problem}")
            return []

    def _ask(self) -> list[Gpu]:
        if not self._gputil_works:
            return self._ask_directly()
        try:
            return ask_gputil(self._timeout)
        except Hung:
            raise
        except NoAnswer as problem:
            found = self._ask_directly()
            self._gputil_works = False
            self._say_once(f"GPUtil cannot be used ({problem}): nvidia-smi is asked without it")
            return found

    def _ask_directly(self) -> list[Gpu]:
        try:
            return ask_nvidia_smi(self._timeout)
        except Hung:
            raise
        except NoAnswer:
            found = [gpu for known in self._chosen for gpu in self._ask_for(known)]
            if not found:
                raise
            return found

    def _ask_for(self, known: Gpu) -> list[Gpu]:
        """One GPU alone, as a lost one can keep the others from being listed."""
        try:
            return ask_nvidia_smi(self._timeout, "-i", known.id)
        except NoAnswer:
            return []

    def _choose(self, names: list[str] | None, found: list[Gpu]) -> list[Gpu]:
        if names is None:
            return found
        in_doubt = self._environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and len({gpu.name for gpu in found}) > 1
        if in_doubt and any(name.isdecimal() for name in names):
            self._say_once("CUDA_VISIBLE_DEVICES is read in nvidia-smi's order; UUIDs would leave no doubt")
        chosen: dict[str, Gpu] = {}
        for name in names:
            gpu = _find_named(name, found)
            if gpu is None:
                self._say_once(f"CUDA_VISIBLE_DEVICES names {name}, which is no usable GPU of this machine")
            else:
                chosen.setdefault(gpu.id, gpu)
        return list(chosen.values())

    def _without_figures(self, names: list[str] | None) -> list[Gpu]:
        if self._chosen:
            return [replace(gpu, load=None, memory_used=None) for gpu in self._chosen]
        number = _num_device_files()
        if names is None or not number:
            return [Gpu(id=str(index), index=index) for index in range(number)]
        return [Gpu(id=name, index=int(name) if name.isdecimal() else None) for name in dict.fromkeys(names)]

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)


def visible_names(text: str | None) -> list[str] | None:
    """What `CUDA_VISIBLE_DEVICES` names: indices, UUIDs or MIG devices; None if it is not set, which means all.

    As in CUDA, a name such as `-1` hides itself and all that follow.
    """
    return None if text is None else list(itertools.takewhile(_is_name, _words(text)))


def mistaken_name(text: str | None) -> str | None:
    """The word that ends the list in `CUDA_VISIBLE_DEVICES`, unless it is one by which GPUs are hidden on purpose."""
    ending = next((word for word in _words(text or "") if not _is_name(word)), "")
    return None if ending in ("", "NoDevFiles") or ending.removeprefix("-").isdecimal() else ending


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _is_name(word: str) -> bool:
    return word.isdecimal() or word.startswith(("GPU-", "MIG-"))


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
        reason = _last_line(output) or _last_line(errors) or f"nothing, with exit code {code}"
        raise NoAnswer(f"nvidia-smi says {reason[:200]}")
    return gpus


def _run(command: list[str], timeout: float) -> tuple[int, str, str]:
    """Exit code, output and errors of a program, which is ended with all it started if it takes too long."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
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


def _find_named(name: str, gpus: list[Gpu]) -> Gpu | None:
    if _is_mig(name):
        return Gpu(id=name, name="MIG device", uuid=name)
    if name.isdecimal():
        return next((gpu for gpu in gpus if gpu.index == int(name)), None)
    return next((gpu for gpu in gpus if gpu.id.startswith(name)), None)


def _is_mig(name: str) -> bool:
    return name.startswith("MIG-")


def _num_device_files() -> int:
    return sum(path.name[len("nvidia") :].isdecimal() for path in DEVICE_FOLDER.glob("nvidia*"))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "".join(letter if letter.isprintable() else "?" for letter in lines[-1]) if lines else ""
