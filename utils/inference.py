"""Inference: evaluation mode without gradients, and how many images go through a network at once."""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

# Pixels of one batch on a CPU, 100 images of 32 px: maps of more leave its caches (benchmarks/results/README.md).
CPU_PIXELS = 100 * 32 * 32
MIN_BATCH_SIZE = 16
# On a GPU 250 such images; fewer where they would take more than a 16th of its memory, at what 1000 of them took in
# float32 in ResNet-18 of width 64, cuDNN's workspace included (benchmarks/results/README.md).
GPU_PIXELS = 250 * 32 * 32
GPU_SHARE = 1 / 16
BYTES_PER_PIXEL = 4608


def inference_batch_size(image_shape: Sequence[int], device: torch.device) -> int:
    """Images per forward, for images of a shape [..., H, W] on a device."""
    pixels = CPU_PIXELS
    if device.type == "cuda":
        pixels = max(pixels, min(GPU_PIXELS, int(GPU_SHARE * device_memory(device)) // BYTES_PER_PIXEL))
    return max(MIN_BATCH_SIZE, pixels // math.prod(image_shape[-2:]))


@functools.cache
def device_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory, whoever uses them; 0 where the driver does not say."""
    try:
        return torch.cuda.mem_get_info(device)[1]
    except RuntimeError:
        return 0


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every submodule is in its own mode again."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        # Not inference_mode: what a layer or a transform caches here must be usable in training.
        with torch.no_grad():
            yield
    finally:
        for submodule, training in modes:
            submodule.training = training
