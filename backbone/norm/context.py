"""What a batch is made of, and how the layers of a network that need to know are told.

Nothing here walks through a network in a step: the layers are looked up when a task begins, and again after any layer
has come into being anywhere.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from operator import index
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .base import Norm, RunningNorm

Maker = TypeVar("Maker", bound=Callable[..., Any])


@dataclass(frozen=True)
class TaskTables:
    """The tasks of a batch on the device of the layers.

    Attributes:
        log_counts: logarithm of the samples of each task, [task + 1]; -∞ for a task that is absent.
        log_present: 0 for a task that has samples, -∞ for one that is absent; [task + 1].
        members: 1 / (samples of task k) where sample i is of task k, else 0; [N, task + 1].
    """

    log_counts: Tensor
    log_present: Tensor
    members: Tensor

    @classmethod
    def of(cls, sent: Tensor) -> "TaskTables":
        """The parts of what `BatchContext.table` gives."""
        return cls(sent[0], sent[1], sent[2:])


@dataclass(eq=False)
class BatchContext:
    """Describes one batch to the layers that depend on its composition.

    Attributes:
        task: index of the task being trained, counted from 0.
        task_of_sample: index of each sample's task, [N] int64 on the host; None if the layers need not know.
        num_current: leading samples that come from the current stream; the others come from memory.

    Raises:
        TypeError: `task` or `num_current` is no integer.
        ValueError: an index is negative or above `task`, or the numbers do not fit each other.
    """

    task: int
    task_of_sample: Tensor | None
    num_current: int
    _tables: dict[tuple[torch.device, torch.dtype], TaskTables] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.task, self.num_current = index(self.task), index(self.num_current)
        if self.task < 0:
            raise ValueError(f"the index of a task is at least 0, not {self.task}")
        if self.num_current < 0:
            raise ValueError(f"num_current must be at least 0, not {self.num_current}")
        if self.task_of_sample is not None:
            self._check(self.task_of_sample)

    @property
    def has_memory(self) -> bool:
        """Whether rows of memory may be among the samples."""
        return self.task_of_sample is None or self.num_current < len(self.task_of_sample)

    def tables(self, device: torch.device, dtype: torch.dtype) -> TaskTables:
        """The tasks of the samples on a device; computed on the host and sent there once, not once per layer."""
        key = (device, dtype)
        if key not in self._tables:
            with torch.inference_mode(False):  # as in `constant`
                self.place(send(self.table(dtype), device))
        return self._tables[key]

    def table(self, dtype: torch.dtype) -> Tensor:
        """What `tables` holds, on the host: two rows of logarithms above the members, [2 + N, task + 1].

        Raises:
            ValueError: the context does not know the tasks of the samples.
        """
        if self.task_of_sample is None:
            raise ValueError("the context does not know the tasks of the samples")
        member = self.task_of_sample.new_zeros((len(self.task_of_sample), self.task + 1), dtype=dtype)
        member.scatter_(1, self.task_of_sample.unsqueeze(1), 1)
        counts = member.sum(0)
        logarithms = torch.stack([counts, counts.clamp(max=1)]).log()
        return torch.cat([logarithms, member / counts.clamp(min=1)])

    def place(self, table: Tensor) -> None:
        """Take a table that lies on a device already; the layers there read it, and what is written to it later."""
        self._tables[table.device, table.dtype] = TaskTables.of(table)

    def update(self, task_of_sample: Tensor) -> None:
        """Describe another batch of the same shape, in place on every device where the tables lie.

        A step captured as a CUDA graph under this context reads the new tasks when it is replayed.

        Args:
            task_of_sample: as in the constructor.

        Raises:
            ValueError: as in the constructor, or the number of samples has changed.
        """
        if self.task_of_sample is None or task_of_sample.shape != self.task_of_sample.shape:
            raise ValueError("update takes as many samples as the context was made for")
        self._check(task_of_sample)
        self.task_of_sample = task_of_sample
        for (device, dtype), tables in self._tables.items():
            news = TaskTables.of(send(self.table(dtype), device))
            for name, values in vars(news).items():
                getattr(tables, name).copy_(values)

    def check_num_samples(self, num_samples: int) -> None:
        """Raises ValueError if a batch of this size is not the one described."""
        if self.task_of_sample is not None and len(self.task_of_sample) != num_samples:
            raise ValueError(f"the context describes {len(self.task_of_sample)} samples, the batch has {num_samples}")
        if self.num_current > num_samples:
            raise ValueError(f"num_current is {self.num_current}, the batch has only {num_samples} samples")

    def _check(self, task_of_sample: Tensor) -> None:
        if task_of_sample.device.type != "cpu":
            raise ValueError("task_of_sample lies on the host: reading it must not wait for the device")
        if task_of_sample.dtype != torch.int64 or task_of_sample.dim() != 1:
            raise ValueError(f"task_of_sample is [N] int64, not {list(task_of_sample.shape)} {task_of_sample.dtype}")
        if self.num_current > len(task_of_sample):
            raise ValueError(f"num_current is {self.num_current}, but there are {len(task_of_sample)} samples")
        if len(task_of_sample) and not 0 <= int(task_of_sample.min()) <= int(task_of_sample.max()) <= self.task:
            raise ValueError(f"task_of_sample must lie between 0 and the task being trained, {self.task}")


def send(values: Tensor, device: torch.device) -> Tensor:
    """A copy on the device; from pinned memory, so that nothing waits for the device."""
    if device.type != "cuda":
        return values.to(device)
    if torch.cuda.is_current_stream_capturing():  # a replay would read host memory that is no longer the batch's
        raise RuntimeError(
            "a context made while a CUDA graph is captured: run the step under it before, and call its `update` later"
        )
    return values.pin_memory().to(device, non_blocking=True)


def constant(make: Maker) -> Maker:
    """A function that makes tensors once for equal arguments, for training also where inference mode comes first."""
    return cast(Maker, cache(torch.inference_mode(False)(make)))


class ContextNorm(RunningNorm):
    """Base of the layers that depend on the composition of the batch.

    Attributes:
        task: index of the task being trained, 0 until `begin_task` says otherwise; `cur_tasks` is its saved form.
        context: describes the batch of the forward under way; None: treat the batch as one.
        num_described: batches with rows of memory that were described so far, by this process.
        prepared: what `prepare` has found for the forward under way.
        noted: what the forward under way has found for the running statistics, until `update_running` takes it.
    """

    needs_joint = True

    cur_tasks: Tensor

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.register_buffer("cur_tasks", torch.tensor(0))
        self.task = 0
        self.context: BatchContext | None = None
        self.num_described = 0
        self.prepared: Any = None
        self.noted: Any = None

    def begin_task(self, task: int) -> None:
        """Take note of the task that starts."""
        self.task = task
        self.cur_tasks.fill_(task)

    def context_of(self, x: Tensor) -> BatchContext | None:
        """What is known of this batch. Raises ValueError if another one was described."""
        if self.context is not None:
            self.context.check_num_samples(len(x))
        return self.context

    @property
    def settings(self) -> tuple[Any, ...]:
        """Layers that have these in common may be passed to the class methods below together."""
        shown = (getattr(self, name, None) for name in self._shown)
        return type(self), self.running_mean.device, self.running_mean.dtype, *shown

    @classmethod
    def prepare(cls, layers: Sequence[Any], context: BatchContext) -> None:
        """Set `prepared` of all these layers, before a forward that is described."""

    def note(self, values: Any) -> None:
        """Leave what the forward has found to `update_running`, which comes at once if no context is in force."""
        if self.noted is not None:  # by an earlier forward in this context
            self.settle()
        self.noted = values
        if self.context is None:
            self.settle()

    def settle(self) -> None:
        """Bring the running statistics up to date, while a context is in force."""
        _update_running([self])

    def normalize_running(self, x: Tensor) -> Tensor:
        self.settle()
        return super().normalize_running(x)

    @classmethod
    def update_running(cls, layers: Sequence[Any]) -> None:
        """Move the running statistics of all these layers by what they have noted."""

    @classmethod
    def take_regularizer(cls, layers: Sequence[Any]) -> Tensor | None:
        """The sum [] of these layers' regularizers of the last training forward, once; None if there is none."""
        return None

    def _load_from_state_dict(self, *args: Any) -> None:
        self.settle()  # what is loaded is not to be moved by a forward before it
        super()._load_from_state_dict(*args)
        self.task = int(self.cur_tasks)

    def _save_to_state_dict(self, *args: Any) -> None:
        self.settle()
        super()._save_to_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        self.settle()
        return super().__getstate__() | {"context": None, "prepared": None}


class _Found(NamedTuple):
    """What was looked up in a network.

    Attributes:
        num_made: layers that had come into being anywhere.
        layers: its own.
        others: PyTorch's layers of batch normalization, by their names.
    """

    num_made: int
    layers: list[weakref.ref]
    others: dict[str, weakref.ref]


_found: weakref.WeakKeyDictionary[nn.Module, _Found] = weakref.WeakKeyDictionary()


def norm_layers(network: nn.Module) -> list[Norm]:
    """The normalization layers of a network, as last looked up."""
    return [layer for reference in _known(network).layers if (layer := reference()) is not None]


def context_layers(network: nn.Module) -> list[ContextNorm]:
    """Those that depend on the composition of the batch."""
    return [layer for layer in norm_layers(network) if isinstance(layer, ContextNorm)]


def _walk(network: nn.Module) -> list[Norm]:
    return [module for module in network.modules() if isinstance(module, Norm)]


def _known(network: nn.Module) -> _Found:
    found = _found.get(network)
    return _look_up(network) if found is None or found.num_made != Norm.num_made else found


def _look_up(network: nn.Module) -> _Found:
    layers = [weakref.ref(layer) for layer in _walk(network)]
    others = {name: weakref.ref(each) for name, each in network.named_modules() if isinstance(each, _BatchNorm)}
    _found[network] = _Found(Norm.num_made, layers, others)
    return _found[network]


@contextmanager
def batch_context(network: nn.Module, context: BatchContext) -> Iterator[None]:
    """Describe the batch of one training forward to the network's layers; they forget it afterwards.

    Running statistics move when the context ends, or as soon as evaluation, `norm_loss` or `state_dict` needs them. A
    context inside another takes its place until it ends.

    Raises:
        ValueError: the context is of another task than the one `begin_task` announced.
    """
    layers = context_layers(network)
    for layer in layers:
        if layer.task != context.task:
            raise ValueError(
                f"the context is of task {context.task}, but the network was told that task {layer.task} is trained: "
                f"call begin_task(network, {context.task})"
            )
    _update_running(layers)  # by a forward in an outer context
    outer = [layer.context for layer in layers]
    try:
        for layer in layers:
            layer.context, layer.prepared = context, None
            layer.num_described += context.has_memory
        for alike in _by_settings(layer for layer in layers if layer.training):
            type(alike[0]).prepare(alike, context)
        yield
        _update_running(layers)
    finally:
        for layer, former in zip(layers, outer, strict=True):
            layer.context, layer.prepared, layer.noted = former, None, None


def _by_settings(layers: Iterable[ContextNorm]) -> Iterable[list[ContextNorm]]:
    """The layers in groups of equal settings."""
    groups: dict[tuple[Any, ...], list[ContextNorm]] = {}
    for layer in layers:
        groups.setdefault(layer.settings, []).append(layer)
    return groups.values()


def _update_running(layers: Iterable[ContextNorm]) -> None:
    """Move the running statistics of the layers that have noted something, for all together."""
    for alike in _by_settings(layer for layer in layers if layer.noted is not None):
        type(alike[0]).update_running(alike)
        for layer in alike:
            layer.noted = None


@contextmanager
def separate_batches(network: nn.Module, sizes: Sequence[int]) -> Iterator[None]:
    """Several batches share one training forward, and each is a batch of its own to the network's layers.

    They give what one forward after another would give in this order, running statistics included, if nothing else in
    the network lets samples depend on each other.

    Args:
        network: whose layers are told; they forget it afterwards.
        sizes: samples of each batch, at least 1, in the order in which they lie in the images.

    Raises:
        ValueError: a batch has no samples, or a layer of PyTorch's batch normalization, which is in training, would mix
            the batches.
    """
    if min(sizes, default=0) < 1:
        raise ValueError(f"every batch has at least 1 sample, not {list(sizes)}")
    for name, reference in _known(network).others.items():
        other = reference()
        if other is not None and other.training:
            kind = type(other).__name__
            raise ValueError(f"{name or kind} is a {kind}, which knows of no batches: convert_norms(network, 'BN')")
    layers = norm_layers(network)
    outer = [layer.batch_sizes for layer in layers]
    try:
        for layer in layers:
            layer.batch_sizes = tuple(sizes)
        yield
    finally:
        for layer, former in zip(layers, outer, strict=True):
            layer.batch_sizes = former


def takes_batches(network: nn.Module) -> bool:
    """Whether all layers keep several batches apart: one with a `forward` of its own may do there what needs one."""
    return all(type(layer).forward is Norm.forward for layer in _walk(network))


def norm_loss(network: nn.Module) -> Tensor:
    """Sum over the layers of their regularizers in the last training forward, [], on the network's device.

    It can be had once, and carries gradients until a backward pass through the network has used up its graph. Zero if
    no layer has one.
    """
    layers = context_layers(network)
    _update_running(layers)  # which regularizers are about, while the context is still in force
    taken = [type(alike[0]).take_regularizer(alike) for alike in _by_settings(layers)]
    terms = [term for term in taken if term is not None]
    if terms:
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]
    parameter = next(network.parameters(), None)
    return torch.zeros(()) if parameter is None else parameter.new_zeros(())


def begin_task(network: nn.Module, task: int) -> None:
    """Tell every layer which task starts, counted from 0, before its first training forward.

    Raises:
        ValueError: the index is negative, or beyond the number of tasks that a layer was made for.
    """
    if task < 0:
        raise ValueError(f"the index of a task is at least 0, not {task}")
    _look_up(network)  # a layer may have been moved in since
    for layer in context_layers(network):
        layer.begin_task(task)


def num_described(network: nn.Module) -> int | None:
    """Batches with rows of memory that this process has described; None if no layer depends on them."""
    return max((layer.num_described for layer in context_layers(network)), default=None)


def rows_needed(network: nn.Module) -> int:
    """Samples without which some layer has too few values per channel in training, by the side of its maps if known."""
    known = [(layer.min_values, layer.spatial_size) for layer in _walk(network) if layer.spatial_size]
    return max((math.ceil(min_values / side**2) for min_values, side in known), default=1)


def norm_parameters(network: nn.Module) -> list[nn.Parameter]:
    """All parameters of the network's layers, such as scale and shift."""
    return [parameter for layer in _walk(network) for parameter in layer.parameters()]


def undecayed_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Parameters of the network's layers that weight decay must leave alone."""
    return [getattr(layer, name) for layer in _walk(network) for name in layer.undecayed]
