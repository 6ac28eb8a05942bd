import pytest
import torch

from utils.machine import available_cores, cpu_name
from utils.records.record import Record
from utils.run.environment import report_memory


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "run").open()


def test_on_the_cpu_no_memory_is_told(record):
    report_memory(record, torch.device("cpu"), task=2)
    assert list(record.folder.iterdir()) == []


def test_on_a_gpu_the_allocators_peak_is_told(record, monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5 * 2**20)
    report_memory(record, torch.device("cuda", 0), task=2)
    assert record.read_memory() == {"task": 2, "device_bytes": 5 * 2**20}


def test_the_machine_has_a_processor_and_cores():
    assert cpu_name()
    assert available_cores() >= 1
