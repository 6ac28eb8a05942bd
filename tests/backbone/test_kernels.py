"""Which kernels norm layers train with."""

import pytest
import torch

from backbone import kernels
from backbone.kernels import choose_norm_kernels
from backbone.norm import uses_fused_kernels
from utils.errors import UserError

GPU = torch.device("cuda", 0)


def refuse(use, *device):
    if use:
        raise RuntimeError("Failed to find C compiler.\nPlease specify one")


@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.setattr(kernels, "use_fused_kernels", refuse)


@pytest.mark.parametrize("word", ["auto", "off"])
def test_the_cpu_has_none(word):
    assert not choose_norm_kernels(word, torch.device("cpu"), pytest.fail)


def test_asking_for_them_on_the_cpu_is_a_mistake():
    with pytest.raises(UserError, match="--fused_norms on cannot be: --device cpu is no GPU"):
        choose_norm_kernels("on", torch.device("cpu"), pytest.fail)


@pytest.mark.usefixtures("without_compiler")
def test_where_triton_makes_none_the_run_goes_on_with_a_note():
    said = []
    assert not choose_norm_kernels("auto", GPU, said.append)
    assert said == [
        "note: norm layers train without fused kernels, as Triton makes none here (Failed to find C compiler.)"
    ]
    assert not choose_norm_kernels("off", GPU, pytest.fail)


@pytest.mark.usefixtures("without_compiler")
def test_where_triton_makes_none_asking_for_them_is_a_mistake():
    with pytest.raises(
        UserError, match=r"Triton makes no kernels here \(Failed to find C compiler.\); use --fused_norms"
    ):
        choose_norm_kernels("on", GPU, pytest.fail)


def test_memory_that_is_full_is_not_held_against_triton(monkeypatch):
    def fail(use, *device):
        if use:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 MiB")

    monkeypatch.setattr(kernels, "use_fused_kernels", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        choose_norm_kernels("auto", GPU, pytest.fail)


@pytest.mark.usefixtures("gpu")
def test_a_gpu_has_them(device):
    pytest.importorskip("triton")
    if device.type == "cuda":
        try:
            assert choose_norm_kernels("on", device, pytest.fail)
            assert uses_fused_kernels()
        finally:
            assert not choose_norm_kernels("off", device, pytest.fail)
    assert not uses_fused_kernels()
