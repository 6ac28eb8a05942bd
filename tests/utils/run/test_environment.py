import subprocess

import torch

from utils.machine import available_cores, cpu_name
from utils.run.environment import describe, peak_memory


def test_memory_is_of_the_process_and_on_a_gpu_the_allocators(monkeypatch):
    assert peak_memory(torch.device("cpu")).keys() == {"host_bytes"}
    assert peak_memory(torch.device("cpu"))["host_bytes"] > 2**20
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5 * 2**20)
    assert peak_memory(torch.device("cuda", 0))["device_bytes"] == 5 * 2**20


def test_the_machine_has_a_processor_and_cores():
    assert cpu_name()
    assert available_cores() >= 1


def test_an_untracked_file_of_code_makes_the_state_dirty(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    monkeypatch.setattr("utils.run.environment.ROOT", tmp_path)
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "a.py").write_text("")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = describe(torch.device("cpu"), 1)["suite"]
    (tmp_path / "notes.txt").write_text("no code")
    assert describe(torch.device("cpu"), 1)["suite"] == clean
    (tmp_path / "backbone" / "b.py").write_text("")
    assert describe(torch.device("cpu"), 1)["suite"] == f"{clean}-dirty"
