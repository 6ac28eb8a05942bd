import sys

import pytest

from utils.launch.gpus import Gpu, ask_torch

WHOLE = [Gpu("GPU-a", 0), Gpu("GPU-b", 1)]
PARTS = [Gpu("MIG-a", 0, part=0), Gpu("MIG-b", 0, part=1)]


@pytest.fixture
def torch_says(tmp_path, monkeypatch):
    """A `torch` for children that knows GPUs of some compute capabilities, or fails to."""

    def play(capabilities=(), kernels=("sm_80", "sm_90", "compute_90"), problem=None):
        (tmp_path / "torch").mkdir(exist_ok=True)
        (tmp_path / "torch" / "__init__.py").write_text("from . import cuda\n__version__ = '9.9.1'\n")
        (tmp_path / "torch" / "cuda.py").write_text(
            "import os\n"
            f"visible = os.environ['CUDA_VISIBLE_DEVICES'].split(',')\n"
            f"def init():\n    if {problem!r}: raise RuntimeError({problem!r})\n"
            f"def get_arch_list(): return {list(kernels)}\n"
            f"def device_count(): return min(len(visible), {len(capabilities)})\n"
            f"def get_device_capability(index): return {list(capabilities)}[index]\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return play


@pytest.mark.parametrize("gpus", [WHOLE, PARTS])
def test_gpus_that_torch_has_kernels_for_can_be_used(torch_says, gpus):
    torch_says([(8, 6), (10, 0)])
    assert ask_torch(sys.executable, gpus) == {}


def test_a_gpu_that_torch_has_no_kernels_for_is_named(torch_says):
    torch_says([(9, 0), (3, 7)])
    (problem,) = ask_torch(sys.executable, WHOLE).items()
    assert problem == ("GPU-b", "torch 9.9.1 has no kernels for its compute capability 3.7")


def test_what_speaks_against_one_mig_device_speaks_against_all(torch_says):
    torch_says([(7, 5)])
    assert ask_torch(sys.executable, PARTS).keys() == {"MIG-a", "MIG-b"}


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        ("Torch not compiled with CUDA enabled", "Torch not compiled with CUDA enabled"),
        (
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver",
            "The NVIDIA driver on your system is too old (found version 11040)",
        ),
    ],
)
def test_why_torch_cannot_use_any_is_told(torch_says, problem, reason):
    torch_says(problem=problem)
    assert ask_torch(sys.executable, WHOLE) == dict.fromkeys(("GPU-a", "GPU-b"), f"torch 9.9.1 says: {reason}")


def test_no_answer_speaks_against_none(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert ask_torch(sys.executable, WHOLE, timeout=1) == {}
    assert ask_torch("no-such-python", WHOLE) == {}


def test_the_torch_installed_here_is_asked_in_a_child(monkeypatch):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("needs a machine whose GPUs torch cannot use")
    problems = ask_torch(sys.executable, WHOLE)
    assert problems.keys() == {"GPU-a", "GPU-b"}
    assert all(text.startswith(f"torch {torch.__version__} says: ") for text in problems.values())
