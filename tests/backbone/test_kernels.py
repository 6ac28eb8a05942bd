"""Which kernels norm layers train with."""

import re

import pytest
import torch

from backbone import kernels
from backbone.kernels import choose_norm_kernels
from backbone.norm import maker_of_fused_kernels, uses_fused_kernels
from backbone.norm.bn import BN
from tests.backbone.norm.rig import use_compiled_kernels
from utils.config.registry import NORMS
from utils.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
MAKERS = [(GPU, "Triton"), (CPU, "the C++ compiler")]


def refuse(use, *device):
    if use:
        raise RuntimeError("Failed to find C compiler.\nPlease specify one")


@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.setattr(kernels, "use_fused_kernels", refuse)


@pytest.mark.parametrize("name", [name for name in NORMS.names() if "cpu" in NORMS.get(name).fused_on])
def test_the_cpu_has_them(name):
    use_compiled_kernels()
    for word in ("auto", "on"):
        made = choose_norm_kernels(word, NORMS.get(name), "fp32", CPU, pytest.fail)
        assert made
        assert made == maker_of_fused_kernels("cpu")
        assert uses_fused_kernels("cpu")
        assert not uses_fused_kernels("cuda")
    assert not choose_norm_kernels("off", BN, "fp32", CPU, pytest.fail)
    assert not uses_fused_kernels("cpu")


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize("name", NORMS.names())
def test_layers_that_have_none_do_not_ask_for_them(name):
    layer, said = NORMS.get(name), []
    without = [device for device in (CPU, GPU) if device.type not in layer.fused_on]
    for device in without:
        assert not choose_norm_kernels("auto", layer, "fp32", device, pytest.fail)
        assert not choose_norm_kernels("on", layer, "fp32", device, said.append)
    kinds = {CPU: "the CPU", GPU: "a GPU"}
    words = f"note: --fused_norms on has no effect: {name} has no fused kernels on"
    assert said == [f"{words} {kinds[device]}" for device in without]


@pytest.mark.usefixtures("without_compiler")
def test_a_layer_that_does_something_else_does_not_ask_for_those_of_its_base():
    class Doubled(BN):
        def normalize_batch(self, x):
            return 2 * super().normalize_batch(x)

    assert not choose_norm_kernels("auto", Doubled, "fp32", CPU, pytest.fail)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_kernels_for_the_maps_of_the_run_are_made_first(precision, dtype, monkeypatch):
    made = []
    monkeypatch.setattr(kernels, "use_fused_kernels", lambda *arguments: made.append(arguments))
    choose_norm_kernels("auto", BN, precision, CPU, pytest.fail)
    assert made == [(False,), (True, CPU, dtype)]


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize(("device", "maker"), MAKERS)
def test_where_there_are_none_the_run_goes_on_with_a_note(device, maker):
    said = []
    assert not choose_norm_kernels("auto", BN, "fp32", device, said.append)
    assert said == [
        f"note: norm layers train without fused kernels, as {maker} makes none here (Failed to find C compiler.)"
    ]
    assert not choose_norm_kernels("off", BN, "fp32", device, pytest.fail)


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize(("device", "maker"), MAKERS)
def test_where_there_are_none_asking_for_them_is_a_mistake(device, maker):
    message = f"{maker} makes no kernels here (Failed to find C compiler.); use --fused_norms auto"
    with pytest.raises(UserError, match=re.escape(message)):
        choose_norm_kernels("on", BN, "fp32", device, pytest.fail)


def test_memory_that_is_full_is_not_held_against_triton(monkeypatch):
    def fail(use, *device):
        if use:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 MiB")

    monkeypatch.setattr(kernels, "use_fused_kernels", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        choose_norm_kernels("auto", BN, "fp32", GPU, pytest.fail)


@pytest.mark.usefixtures("gpu")
def test_a_gpu_has_them(device):
    pytest.importorskip("triton")
    if device.type == "cuda":
        try:
            assert choose_norm_kernels("on", BN, "fp32", device, pytest.fail)
            assert uses_fused_kernels()
        finally:
            assert not choose_norm_kernels("off", BN, "fp32", device, pytest.fail)
    assert not uses_fused_kernels()
