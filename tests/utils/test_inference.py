"""How many images a network looks at at once."""

import pytest
import torch

from utils import inference
from utils.inference import device_memory, inference_batch_size

GB = 2**30


@pytest.mark.parametrize(("side", "expected"), [(16, 400), (32, 100), (84, 16), (224, 16)])
def test_batches_shrink_with_the_images(side, expected):
    assert inference_batch_size((3, side, side), torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("side", "memory", "expected"), [(32, 80 * GB, 250), (32, 8 * GB, 113), (32, 0, 100), (84, 80 * GB, 36)]
)
def test_a_gpu_takes_more_as_far_as_its_memory_allows(monkeypatch, side, memory, expected):
    monkeypatch.setattr(inference, "device_memory", lambda device: memory)
    assert inference_batch_size((5, 3, side, side), torch.device("cuda", 0)) == expected


def test_a_driver_that_does_not_say_its_memory_has_none(monkeypatch):
    def refuse(device):
        raise RuntimeError("not supported")

    monkeypatch.setattr("torch.cuda.mem_get_info", refuse)
    device_memory.cache_clear()
    assert device_memory(torch.device("cuda", 0)) == 0
    device_memory.cache_clear()
