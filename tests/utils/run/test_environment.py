import os
import subprocess
import warnings
from types import SimpleNamespace

import pytest
import torch

from utils.errors import UserError
from utils.machine import MPS_PERCENT, available_cores, cpu_name
from utils.run.environment import (
    check_multiprocessors,
    choose_memory_format,
    describe,
    limit_multiprocessors,
    peak_memory,
    set_arithmetic,
)


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
    clean = describe(torch.device("cpu"), 1, torch.contiguous_format, None)["suite"]
    (tmp_path / "notes.txt").write_text("no code")
    assert describe(torch.device("cpu"), 1, torch.contiguous_format, None)["suite"] == clean
    (tmp_path / "backbone" / "b.py").write_text("")
    assert describe(torch.device("cpu"), 1, torch.contiguous_format, None)["suite"] == f"{clean}-dirty"


def test_the_memory_format_is_described_and_there_for_every_precision():
    for device in (torch.device("cpu"), torch.device("cuda", 0)):
        for precision in ("fp32", "bf16"):
            assert isinstance(choose_memory_format(device, precision), torch.memory_format)
    assert describe(torch.device("cpu"), 1, torch.channels_last, None)["memory_format"] == "channels_last"


@pytest.fixture
def gpu_of_32(monkeypatch):
    properties = SimpleNamespace(name="NVIDIA H100", multi_processor_count=32)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return torch.device("cuda", 0)


def test_multiprocessors_of_a_gpu_are_described(monkeypatch, gpu_of_32):
    monkeypatch.setenv(MPS_PERCENT, "25")
    found = describe(gpu_of_32, 1, torch.channels_last, "GCC 12.2.0")
    assert (found["device"], found["multiprocessors"], found["mps_percent"]) == ("NVIDIA H100", 32, 25)
    assert "multiprocessors" not in describe(torch.device("cpu"), 1, torch.channels_last, "GCC 12.2.0")


QUARTER = {"device": "NVIDIA H100", "multiprocessors": 32, "mps_percent": 25.0}
WHOLE = {"device": "NVIDIA H100", "multiprocessors": 132, "mps_percent": None}


@pytest.mark.parametrize(
    ("percent", "variable", "former", "kept", "noted"),
    [
        (None, None, {}, None, None),
        (None, "12.5", {}, 12.5, None),
        (50.0, "12.5", {}, 50.0, None),
        (None, None, QUARTER, 25.0, None),
        (None, "50", QUARTER, 25.0, None),
        (25.0, None, QUARTER, 25.0, None),
        (50.0, None, QUARTER, 25.0, "--mps_percent 50 is ignored: the run resumes with 25,"),
        (25.0, None, WHOLE, None, "--mps_percent 25 is ignored: the run resumes with all,"),
        (25.0, None, {"device": "NVIDIA H100"}, None, "resumes with all,"),
        (25.0, None, {"device": "cpu"}, 25.0, None),
    ],
)
def test_a_run_takes_the_part_of_a_gpu_that_it_began_with(monkeypatch, percent, variable, former, kept, noted):
    monkeypatch.setenv(MPS_PERCENT, variable or "")
    said = []
    limit_multiprocessors(percent, former, said.append)
    assert os.environ.get(MPS_PERCENT) == (None if kept is None else f"{kept:g}")
    assert [noted in line for line in said] == ([True] if noted else [])


@pytest.mark.parametrize("text", ["much", "0", "0.5", "101", "nan"])
def test_a_part_that_is_none_is_a_mistake(monkeypatch, text):
    monkeypatch.setenv(MPS_PERCENT, text)
    with pytest.raises(UserError, match=f"{MPS_PERCENT} is '{text}'.*--mps_percent"):
        limit_multiprocessors(None, {}, pytest.fail)


@pytest.mark.parametrize(
    ("percent", "former", "has_service", "noted"),
    [
        (None, {}, False, None),
        (25.0, {}, True, None),
        (25.0, {}, False, "Multi-Process Service does not run"),
        (100.0, QUARTER, False, None),
        (None, WHOLE, True, "began on 132 multiprocessors and goes on on 32,"),
    ],
)
def test_a_part_of_a_gpu_that_is_not_to_be_had_is_told(
    monkeypatch, gpu_of_32, tmp_path, percent, former, has_service, noted
):
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    if has_service:
        (tmp_path / "control").touch()
    said = []
    check_multiprocessors(gpu_of_32, percent, former, said.append)
    assert [noted in line for line in said] == ([True] if noted else [])


def test_without_a_gpu_a_part_of_one_has_no_effect():
    said = []
    check_multiprocessors(torch.device("cpu"), 25.0, QUARTER, said.append)
    assert said == ["note: --mps_percent has no effect: the run uses no GPU"]


@pytest.fixture
def old_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    return torch.device("cuda", 0)


@pytest.fixture
def keeps_arithmetic():
    """What the test changes in torch is as before at its end."""
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this torch has the older switches alone")
    matmul, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, convolutions.fp32_precision, torch.get_deterministic_debug_mode()
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    yield
    matmul.fp32_precision, convolutions.fp32_precision = before[:2]
    torch.set_deterministic_debug_mode(before[2])
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("precision", "of_convolutions"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
@pytest.mark.usefixtures("keeps_arithmetic")
def test_tf32_is_for_convolutions_alone(monkeypatch, precision, of_convolutions):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    set_arithmetic(torch.device("cuda", 0), precision, fast=False, threads=1)
    assert torch.backends.cudnn.conv.fp32_precision == of_convolutions
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"


@pytest.mark.usefixtures("keeps_arithmetic")
@pytest.mark.parametrize(("has", "num_notes"), [(False, 1), (True, 0), (None, 0)])
def test_a_processor_without_bfloat16_is_noted(monkeypatch, has, num_notes):
    monkeypatch.setattr("utils.run.environment.has_bfloat16", lambda: has)
    with warnings.catch_warnings(record=True) as notes:
        for precision in ("fp32", "bf16"):
            set_arithmetic(torch.device("cpu"), precision, fast=False, threads=1)
    assert len(notes) == num_notes


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_arithmetic_that_a_gpu_lacks_is_named(old_gpu, precision):
    with pytest.raises(UserError, match=f"--precision {precision} needs .*8.0.*Tesla T4 has 7.5: use --precision fp32"):
        set_arithmetic(old_gpu, precision, fast=False, threads=1)


@pytest.mark.parametrize(("workspace", "is_good"), [(":0:0", False), (":16:8", True), (":4096:8", True), (None, True)])
def test_a_workspace_with_which_cublas_is_not_deterministic_is_named(monkeypatch, old_gpu, workspace, is_good):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    if workspace is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    if is_good:
        set_arithmetic(old_gpu, "fp32", fast=False, threads=1)
        return
    with pytest.raises(UserError, match=r"CUBLAS_WORKSPACE_CONFIG is ':0:0'.*--fast 1"):
        set_arithmetic(old_gpu, "fp32", fast=False, threads=1)
    set_arithmetic(old_gpu, "fp32", fast=True, threads=1)
