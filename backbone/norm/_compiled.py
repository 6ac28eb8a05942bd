"""Kernels for the CPU: of layers that normalise by mixtures of rows (`_fused.py`), and for the maps of others.

They are C++ (`_compiled.cpp`), and made by this machine's compiler for its processor when maps of a new type come,
which takes two seconds. What it makes is kept in a cache folder of this account, `$XDG_CACHE_HOME` or `~/.cache`.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import _fused_rows
from ._fused import CHANNELS_OF_COPY, Given, Kept, for_gradients
from ._fused_rows import Grouped, Kind, Parameters
from ._row_tables import make_gradients, make_tables
from .base import RunningNorm, table_type

_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared", "-w")
# By what PyTorch's own kernels use of the processor.
_AVX2 = ("-mavx2", "-mfma")
_INSTRUCTIONS = {"AVX2": _AVX2, "AVX512": (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")}
_COMPILERS = ("c++", "g++", "clang++")
_MOST_SECONDS = 120
_WITH_MEMORY = (Tensor, nn.Parameter)  # of other kinds of tensors nothing is known
_BITS = {torch.float32: 32, torch.float64: 64, torch.bfloat16: 16}

_POINTER, _COUNT, _NUMBER = ctypes.c_void_p, ctypes.c_long, ctypes.c_double
_ARGUMENTS: dict[str, list[Any]] = {
    "normalize": [*[_POINTER] * 12, *[_COUNT] * 6, *[_NUMBER] * 2, _COUNT],
    "pass_back": [*[_POINTER] * 15, *[_COUNT] * 6],
    "row_moments": [*[_POINTER] * 2, *[_COUNT] * 5],
    "scale_rows": [*[_POINTER] * 5, *[_COUNT] * 6],
    "row_sums": [*[_POINTER] * 6, *[_COUNT] * 5],
    "pass_rows_on": [*[_POINTER] * 7, *[_COUNT] * 5],
}


class CompiledKernels:
    """The kernels of the CPU."""

    def __init__(self, maker: str) -> None:
        self.maker = maker
        self.rows = CompiledRows()

    @classmethod
    def made(cls, dtype: torch.dtype) -> "CompiledKernels":
        """Those for maps of a type, and others. Raises OSError where they cannot be made, or not be kept."""
        return cls(_library(_BITS[dtype]).compiler().decode())

    def takes(self, layer: RunningNorm, x: Tensor, num_groups: int) -> bool:
        tables = [layer.running_mean, layer.running_var]
        if layer.weight is not None and layer.bias is not None:
            tables += [layer.weight, layer.bias]
        elif layer.weight is not layer.bias:
            return False
        alike = table_type(x), x.device, x.shape[1:2], True
        return all(
            (each.dtype, each.device, each.shape, each.is_contiguous()) == alike for each in tables
        ) and _takes_maps(x)

    def normalize(self, given: Given) -> tuple[Tensor, Tensor, Tensor]:
        x, running, numbers = given.x, given.running, table_type(given.x)
        shares, outputs = (each.to(numbers).contiguous() for each in (given.mixing.shares, given.mixing.outputs))
        (num_samples, num_groups), num_channels = outputs.shape, x.shape[1]
        y = torch.empty_like(x)
        table, lines = x.new_empty((2, 2, num_samples, num_channels), dtype=numbers).unbind(0)
        statistics = x.new_empty((3, num_groups, num_channels), dtype=numbers)
        mean, variance, momentum = None, None, 0.0
        if running is not None:
            mean, variance, momentum = running.mean, running.variance, running.momentum
            running.num_tracked.add_(num_groups)
        maps, constants = (x, given.added, y), (shares, outputs, given.weight, given.bias)
        _library(_BITS[x.dtype]).normalize(
            *map(_place, (*maps, table, lines, *constants, statistics, mean, variance)),
            *_counts(x, num_groups),
            given.rectified,
            given.eps,
            momentum,
            torch.get_num_threads(),
        )
        return y, table, statistics

    def pass_back(
        self, gradient: Tensor, grad_statistics: Tensor | None, kept: Kept, adds: bool, learns_shares: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        x, y, weight = kept.x, kept.y, kept.weight
        numbers = kept.table.dtype
        shares, outputs = (each.to(numbers).contiguous() for each in (kept.mixing.shares, kept.mixing.outputs))
        grad_x, grad_added = torch.empty_like(x), None
        if adds:
            grad_added = gradient if y is None else torch.empty_like(x)
        lines = x.new_empty((5, *kept.table.shape[1:]), dtype=numbers)
        grads = for_gradients(weight)
        grad_shares = torch.zeros_like(shares) if learns_shares else None
        maps = gradient, x, y, None if y is None else grad_added, grad_x
        constants = shares, outputs, weight, kept.statistics
        _library(_BITS[x.dtype]).pass_back(
            *map(_place, (*maps, kept.table, lines, *constants, grad_statistics, *grads, grad_shares)),
            *_counts(x, outputs.shape[1]),
            torch.get_num_threads(),
        )
        return grad_x, grad_added, grad_shares, *grads


class CompiledRows:
    """Passes over maps; the tables between them are PyTorch's."""

    def takes(self, kind: Kind, x: Tensor) -> bool:
        return not (isinstance(kind, Grouped) and kind.per_position) and _takes_maps(x)

    def normalize(
        self, kind: Kind, x: Tensor, added: Tensor | None, rectified: bool, parameters: Parameters
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        library, sizes, threads = _library(_BITS[x.dtype]), _sizes(x), torch.get_num_threads()
        table, y = x.new_empty((2, *x.shape[:2]), dtype=table_type(x)), torch.empty_like(x)
        library.row_moments(*map(_place, (x, table)), *sizes, threads)
        slope, offset, *statistics = make_tables(kind, table, x.shape[2:].numel(), *parameters)
        coefficients = torch.stack((slope, offset))
        library.scale_rows(*map(_place, (x, added, y, table, coefficients)), *sizes, rectified, threads)
        return y, table, tuple(statistics)

    def pass_back(
        self, kind: Kind, gradient: Tensor, kept: _fused_rows.Kept, adds: bool
    ) -> tuple[Tensor, Tensor | None, Parameters]:
        x, y, table, num_pixels = kept.x, kept.y, kept.table, kept.x.shape[2:].numel()
        library, sizes, threads = _library(_BITS[x.dtype]), _sizes(x), torch.get_num_threads()
        sums, grad_x = torch.empty_like(table), torch.empty_like(x)
        rectified = torch.empty_like(x) if adds and y is not None else None
        library.row_sums(*map(_place, (gradient, x, y, rectified, table, sums)), *sizes, threads)
        found, grads = make_gradients(kind, table, sums, num_pixels, kept.statistics, *kept.parameters)
        slope, offset, x_slope = found
        coefficients = torch.stack((slope, x_slope / num_pixels, offset / num_pixels))
        library.pass_rows_on(*map(_place, (gradient, x, y, rectified, grad_x, table, coefficients)), *sizes, threads)
        return grad_x, (gradient if y is None else rectified) if adds else None, grads


def _takes_maps(x: Tensor) -> bool:
    """Whether there are kernels for maps that lie as these do."""
    return type(x) in _WITH_MEMORY and not x.is_neg() and x.dtype in _BITS and _is_there(_BITS[x.dtype])


def _sizes(x: Tensor) -> tuple[int, int, int, bool]:
    """Samples, channels and pixels of maps, and whether their channels lie together."""
    return len(x), x.shape[1], x.shape[2:].numel(), not x.is_contiguous()


def _place(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    place = tensor.data_ptr()
    if not place:  # which would stand for what is not there
        raise RuntimeError(f"maps or tables without memory: {tensor.shape}, {tensor.dtype}, {tensor.device}")
    return place


def _counts(x: Tensor, num_groups: int) -> tuple[int, int, int, int, bool]:
    """The sizes of maps, with their groups."""
    samples, channels, pixels, channels_last = _sizes(x)
    return samples, channels, pixels, num_groups, channels_last


@cache
def _is_there(value_bits: int) -> bool:
    """Whether there are kernels for maps of this type; if others were made before, a warning says why not."""
    try:
        _library(value_bits)
    except OSError as error:
        warnings.warn(f"norm layers train without fused kernels on such maps: {error}", stacklevel=2)
        return False
    return True


@cache
def _library(value_bits: int) -> ctypes.CDLL:
    """The kernels for maps of one type, which are made if they have not been yet.

    Raises:
        OSError: they cannot be made, or not be kept.
    """
    instructions = _INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ())
    flags = [*_FLAGS, *instructions, f"-DVALUE_BITS={value_bits}", f"-DCHANNELS_OF_COPY={CHANNELS_OF_COPY}"]
    digest = hashlib.sha256(_SOURCE.read_bytes() + " ".join([platform.machine(), *flags]).encode()).hexdigest()
    path = _cache_folder() / f"norms-{digest[:16]}.so"
    try:
        library = ctypes.CDLL(str(path))
    except OSError:  # it has not been made yet, or is damaged
        _compile(flags, path)
        library = ctypes.CDLL(str(path))
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    library.compiler.restype = ctypes.c_char_p
    return library


def _cache_folder() -> Path:
    """Where what was made is kept. Raises OSError if there is no such place."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise OSError("this account has no home folder to keep kernels in: set XDG_CACHE_HOME") from error
    folder = home / "continual-norms" / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _compile(flags: list[str], path: Path) -> None:
    """Raises OSError if there is no compiler, or it fails."""
    compiler = shlex.split(os.environ.get("CXX", "")) or [*filter(shutil.which, _COMPILERS)][:1]
    if not compiler:
        raise FileNotFoundError(f"there is no C++ compiler ({', '.join(_COMPILERS)}; $CXX names another)")
    handle, made = tempfile.mkstemp(suffix=".so", prefix=".", dir=path.parent)  # beside it, to take its place at once
    os.close(handle)
    try:
        command = [*compiler, *flags, str(_SOURCE), "-o", made]
        ended = subprocess.run(command, capture_output=True, errors="replace", timeout=_MOST_SECONDS, check=False)
        if ended.returncode:
            said = next((line for line in ended.stderr.splitlines() if "error" in line), ended.stderr.strip())
            raise OSError(f"{shlex.join(compiler)} fails: {said or f'exit code {ended.returncode}'}")
        with Path(made).open("rb") as written:
            os.fsync(written.fileno())  # a library that a crash had cut short would take the process with it
        Path(made).replace(path)
    except subprocess.TimeoutExpired:
        raise OSError(f"{shlex.join(compiler)} takes more than {_MOST_SECONDS} s") from None
    finally:
        Path(made).unlink(missing_ok=True)
