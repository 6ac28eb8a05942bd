"""A network that is looked at and not trained: evaluation mode, and how many images it takes at once."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

# Pixels of one batch, 100 images of 32 px. In ResNet-18 on a CPU, 50 to 200 such images are fastest, more take up to
# 1.6 times as long; at 84 px the same number of pixels is 1.5 times as fast as 100 images and needs half a GB less.
BATCH_PIXELS = 100 * 32 * 32
MIN_BATCH_SIZE = 16


def inference_batch_size(image_shape: Sequence[int]) -> int:
    """Images per forward, for images of a shape [..., H, W]."""
    return max(MIN_BATCH_SIZE, BATCH_PIXELS // math.prod(image_shape[-2:]))


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
