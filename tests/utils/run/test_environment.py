import torch

from utils.machine import available_cores, cpu_name
from utils.run.environment import peak_memory


def test_memory_is_of_the_process_and_on_a_gpu_the_allocators(monkeypatch):
    assert peak_memory(torch.device("cpu")).keys() == {"host_bytes"}
    assert peak_memory(torch.device("cpu"))["host_bytes"] > 2**20
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5 * 2**20)
    assert peak_memory(torch.device("cuda", 0))["device_bytes"] == 5 * 2**20


def test_the_machine_has_a_processor_and_cores():
    assert cpu_name()
    assert available_cores() >= 1
