"""Layers, batches and steps for the tests of normalization layers."""

import contextlib
import importlib.util
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from backbone.norm import (
    BatchContext,
    _fused,
    _fused_rows,
    batch_context,
    begin_task,
    build_norm,
    norm_loss,
    use_fused_kernels,
)
from tests.conftest import HAS_GPU
from utils.config.registry import NORMS

NAMES = NORMS.names()
GROUPED = {"GN": {"num_groups": 4}, "CN": {"num_groups": 4}}
NUM_TASKS = 4


def make(name, channels=8, side=3, dtype=torch.float32, **options):
    """A layer with weights that are not all ones."""
    options = GROUPED.get(name, {}) | options
    layer = build_norm(name, channels, spatial_size=side, num_tasks=NUM_TASKS, **options).to(dtype)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * draw(*parameter.shape, random=random))
    return layer


def maps(num_samples=12, channels=8, side=3, dtype=torch.float32, seed=2):
    shape = num_samples, channels, side, side
    return 2 * draw(*shape, random=torch.Generator().manual_seed(seed), dtype=dtype) + 1


def draw(*shape, random, dtype=torch.float32):
    """On the default device, the same on every one."""
    return torch.randn(shape, generator=random, dtype=dtype, device="cpu").to(torch.get_default_device())


def context(task=2, num_current=8, num_memory=4):
    """Current samples of the task itself, memory samples of the tasks before it in turn."""
    memory = torch.arange(num_memory, device="cpu") % max(task, 1)
    return BatchContext(task, torch.cat([memory.new_full((num_current,), task), memory]), num_current)


def train_step(layer, x, described=None):
    """One training forward and backward with the regularizer; the output, the regularizer and the gradients."""
    layer.train()
    if described is None:
        y = layer(x)
    else:
        begin_task(layer, described.task)
        with batch_context(layer, described):
            y = layer(x)
    regularizer = norm_loss(layer)
    weights = torch.empty_like(y).copy_(torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape))
    ((weights * y.square()).sum() + regularizer).backward()
    return y.detach(), regularizer.detach(), {name: p.grad for name, p in layer.named_parameters()}


def state_of(layer):
    return {name: value.clone() for name, value in layer.state_dict().items()}


def same_state(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class _KernelsOfGpus(TorchDispatchMode):
    """Batch normalization does what PyTorch's kernels for GPUs do otherwise than those for the CPU.

    As in `aten/src/ATen/native/cuda/Normalization.cu` and `.cuh` of PyTorch 2.11 to 2.14.
    """

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if function is torch.ops.aten.native_batch_norm.out:
            return _normalize_into(*arguments, **named)
        result = function(*arguments, **(named or {}))
        if function is torch.ops.aten.native_batch_norm_backward.default:
            return _as_gradients_on_a_gpu(arguments, *result)
        return result


def _normalize_into(x, weight, bias, mean, variance, training, momentum, eps, *, out, save_mean, save_invstd):
    """In evaluation mode the statistics go to the places for them first, and the maps are made from there."""
    assert not training
    save_mean.resize_(mean.shape).copy_(mean)
    save_invstd.resize_(variance.shape).copy_((variance + eps).rsqrt())
    scale = save_invstd if weight is None else save_invstd * weight
    y = (x - save_mean[:, None, None]) * scale[:, None, None]
    return out.copy_(y if bias is None else y + bias[:, None, None]), save_mean, save_invstd


def _as_gradients_on_a_gpu(arguments, grad_x, grad_weight, grad_bias):
    gradient, x, weight, *_, training, _, (with_maps, with_weight, with_bias) = arguments
    reads_channels_last = _is_channels_last(x)
    if weight is None and (with_weight or with_bias):
        if not (reads_channels_last and _is_channels_last(gradient)):
            raise RuntimeError("tensor does not have a device")
        grad_weight, grad_bias = x.new_empty(0), x.new_empty(0)
    if with_maps and not (training and reads_channels_last):
        grad_x = grad_x.contiguous()
    return grad_x, grad_weight, grad_bias


def _is_channels_last(x):
    return x.is_contiguous(memory_format=torch.channels_last) or (x.is_contiguous() and x.stride(1) == 1)


@contextlib.contextmanager
def as_on_a_gpu():
    """The branches of layers for a GPU run, on maps that lie on the CPU; other kernels than these do as on the CPU."""
    with pytest.MonkeyPatch.context() as patch, _KernelsOfGpus():
        patch.setattr(torch.Tensor, "is_cuda", property(lambda self: True), raising=False)
        yield


KERNELS = ("triton", "compiled")


@contextlib.contextmanager
def fused(device, kernels="triton"):
    """Layers train with fused kernels, on the CPU with those of its compiler or with Triton's in its interpreter.

    Gives the number of channels of every layer that has taken them, as it comes.
    """
    taken, normalize, normalize_rows = [], _fused.normalize, _fused_rows.normalize

    def noted(x, *others, **named):
        taken.append(x.shape[1])
        return normalize(x, *others, **named)

    def noted_rows(kind, x, *others, **named):
        taken.append(x.shape[1])
        return normalize_rows(kind, x, *others, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fused, "_kernels", {})
        if kernels == "compiled":
            if device.type != "cpu":
                pytest.skip("of the CPU alone")
            use_compiled_kernels()
        elif device.type == "cpu":
            if HAS_GPU:
                pytest.skip("Triton's interpreter is for machines without a GPU")
            pytest.importorskip("triton")
            patch.setenv("TRITON_INTERPRET", "1")  # is asked when a kernel is defined
            _fused._kernels["cpu"] = _interpreted()((torch.float32, torch.float16, torch.bfloat16))
        else:
            pytest.importorskip("triton")
            patch.setattr(torch.cuda, "is_available", lambda: True)  # Triton asks
            use_fused_kernels(True, device)
        patch.setattr(_fused, "normalize", noted)
        patch.setattr(_fused_rows, "normalize", noted_rows)
        yield taken


def use_compiled_kernels():
    """Leaves a test out where there is no C++ compiler."""
    try:
        use_fused_kernels(True, "cpu")
    except FileNotFoundError as error:
        pytest.skip(str(error))


@cache
def _interpreted():
    folder = Path(_fused.__file__).with_name("_triton")
    spec = importlib.util.spec_from_file_location(
        "backbone.norm.interpreted", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    return module.TritonKernels
