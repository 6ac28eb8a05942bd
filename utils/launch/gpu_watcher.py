"""Which GPUs the caller may use, and their present state."""

import itertools
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from utils.launch.gpus import (
    Gpu,
    Hung,
    Mode,
    NoAnswer,
    ask_gputil,
    ask_mig_devices,
    ask_modes,
    ask_nvidia_smi,
    names_mig_device,
)
from utils.machine import has_mps

DEVICE_FOLDER = Path("/dev")  # where the driver shows its GPUs as nvidia0, nvidia1, …
QUERY_TIMEOUT = 15.0  # seconds; `nvidia-smi` may take several where the driver is not kept loaded
REST_AFTER_HANG = 60.0  # seconds in which an `nvidia-smi` that hung is left alone


class GpuWatcher:
    """Looks at the GPUs within the caller's `CUDA_VISIBLE_DEVICES`.

    Which GPUs these are is decided by the first look that succeeds. A later one finds the same ones in another state,
    or not at all where one fell off the bus: the others' numbers may change then, their UUIDs do not.

    Args:
        say: called once for each reason why something cannot be determined.
        environment: where `CUDA_VISIBLE_DEVICES` is read.
        timeout: seconds that one question may take.
        clock: seconds, monotonic.
        judge: says why some of the GPUs cannot be used, by their ids; asked once.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        environment: Mapping[str, str] = os.environ,
        timeout: float = QUERY_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
        judge: Callable[[Sequence[Gpu]], Mapping[str, str]] = lambda gpus: {},
    ) -> None:
        self._say = say
        self._environment = environment
        self._timeout = timeout
        self._clock = clock
        self._said: set[str] = set()
        self._judge = judge
        self._chosen: list[Gpu] | None = None  # as they were when they were chosen
        self._problems: Mapping[str, str] | None = None
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
        if self._chosen is None and found:
            self._chosen = self._without_unusable(self._by_mode(self._choose(names, found)))
        answering = {gpu.id: gpu for gpu in found}
        chosen = [gpu for gpu in self._chosen or () if gpu.id in answering or gpu.is_mig]
        return [replace(answering.get(gpu.id, gpu), is_exclusive=gpu.is_exclusive) for gpu in chosen]

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
            numbers = map(str, range(_num_device_files()))
            names = numbers if self._chosen is None else [gpu.id for gpu in self._chosen if not gpu.is_mig]
            found = [gpu for name in names for gpu in self._ask_for(name)]
            if not found:
                raise
            return found

    def _ask_for(self, name: str) -> list[Gpu]:
        """One GPU alone, by its id or number, as a lost one can keep the others from being listed."""
        try:
            return ask_nvidia_smi(self._timeout, "-i", name)
        except NoAnswer:
            return []

    def _choose(self, names: list[str] | None, found: list[Gpu]) -> list[Gpu]:
        if names is None:
            return found
        in_doubt = self._environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and len({gpu.name for gpu in found}) > 1
        if in_doubt and any(name.isdecimal() for name in names):
            self._say_once("CUDA_VISIBLE_DEVICES is read in nvidia-smi's order; UUIDs would leave no doubt")
        chosen: dict[str, Gpu] = {}
        parts = {part.id: part for part in ask_mig_devices(self._timeout)} if any(map(names_mig_device, names)) else {}
        for name in names:
            gpu = parts.get(name) or _find_named(name, found)
            if gpu is None:
                self._say_once(f"CUDA_VISIBLE_DEVICES names {name}, which is no usable GPU of this machine")
            else:
                chosen.setdefault(gpu.id, gpu)
        return list(chosen.values())

    def _by_mode(self, gpus: list[Gpu]) -> list[Gpu]:
        """The GPUs whose mode permits use; a GPU that is divided into MIG devices is replaced by these."""
        modes, usable = ask_modes(self._timeout), []
        parts = ask_mig_devices(self._timeout) if any(mode.is_mig for mode in modes.values()) else []
        for gpu in gpus:
            mode = modes.get(gpu.index, Mode("Default", is_mig=False))
            if mode.compute == "Prohibited":
                self._say_once(f"{gpu.label} is not used: its compute mode is Prohibited")
            elif mode.is_mig and not gpu.is_mig:
                mine = [part for part in parts if part.index == gpu.index]
                usable += mine
                if not mine:
                    self._say_once(f"{gpu.label} is not used: it is in MIG mode and has no MIG device")
            else:
                is_exclusive = mode.compute.startswith("Exclusive") and not has_mps(self._environment)
                usable.append(replace(gpu, is_exclusive=is_exclusive))
        return usable

    def _without_unusable(self, gpus: list[Gpu]) -> list[Gpu]:
        if self._problems is None:
            self._problems = self._judge(gpus) if gpus else {}
        problems = [self._problems[gpu.id] for gpu in gpus if gpu.id in self._problems]
        if len(problems) == len(gpus) and len(set(problems)) == 1:
            self._say_once(f"no GPU can be used: {problems[0]}")
            return []
        for gpu, problem in ((gpu, self._problems[gpu.id]) for gpu in gpus if gpu.id in self._problems):
            self._say_once(f"{gpu.label} is not used: {problem}")
        return [gpu for gpu in gpus if gpu.id not in self._problems]

    def _without_figures(self, names: list[str] | None) -> list[Gpu]:
        if self._chosen is not None:
            return [replace(gpu, load=None, memory_used=None) for gpu in self._chosen]
        number = _num_device_files()
        if names is None or not number:
            return self._without_unusable([Gpu(id=str(index), index=index) for index in range(number)])
        named = [Gpu(id=name, index=int(name) if name.isdecimal() else None) for name in dict.fromkeys(names)]
        return self._without_unusable(named)

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


def _find_named(name: str, gpus: list[Gpu]) -> Gpu | None:
    if names_mig_device(name):
        return Gpu(id=name, name="MIG device", uuid=name)
    if name.isdecimal():
        return next((gpu for gpu in gpus if gpu.index == int(name)), None)
    return next((gpu for gpu in gpus if gpu.id.startswith(name)), None)


def _num_device_files() -> int:
    return sum(path.name[len("nvidia") :].isdecimal() for path in DEVICE_FOLDER.glob("nvidia*"))
