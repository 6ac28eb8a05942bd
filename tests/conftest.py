import contextlib
import os
import warnings

import numpy as np
import pytest
import torch

from backbone.blocks import ResidualNetwork
from backbone.norm import use_fused_kernels
from backbone.resnet18 import ResNet18

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:  # the suite's kernels run in Triton's interpreter (`tests/backbone/norm/rig.py`), as is settled here
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ImportError):
        patch.setenv("TRITON_INTERPRET", "1")
        import triton.language  # noqa: F401

# Networks as small as those of the tests gain nothing from a second thread, which only waits, at full load, for the
# first one: with as many test processes as cores they slow each other down threefold.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def hidden_gpus():
    """The launchers and runs that tests start see no GPU, so that none of a developer's is used."""
    if HAS_GPU:
        torch.cuda.init()  # this process keeps it, for the tests that ask for it
        torch.cuda.device_count()  # which is counted once, by what the environment says now
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def on_the_cpu(request, monkeypatch):
    """A run within a test's process takes the CPU too, unless the test asks for a GPU."""
    if "gpu" not in request.fixturenames:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpu():
    """Leaves a test out where there is no GPU."""
    if not HAS_GPU:
        pytest.skip("needs a GPU")


@pytest.fixture(params=["cpu", "cuda"] if HAS_GPU else ["cpu"])
def device(request):
    """Every device of this machine in turn, as the default one: layers and losses are the recorded ones on each."""
    with torch.device(request.param):
        yield torch.device(request.param)


@pytest.fixture
def shallow(monkeypatch):
    """One block a stage in ResNet-18, for whole runs in this process that would do the same on more layers."""

    def make(self, norm, *, image_size, nf=4):
        ResidualNetwork.__init__(
            self, norm, image_size=image_size, widths=(nf, nf, 2 * nf, 2 * nf), num_blocks=(1, 1, 1, 1)
        )

    monkeypatch.setattr(ResNet18, "__init__", make)


@pytest.fixture(scope="session")
def small_root(tmp_path_factory):
    """A data root for `seq-arrays`: 6 classes that differ in colour and brightness, 16 px, 20 training images each."""
    root = tmp_path_factory.mktemp("small")
    random = np.random.default_rng(0)
    centers = random.integers(40, 215, size=(6, 1, 1, 1, 3))
    for split, size in (("train", 20), ("test", 8)):
        images = centers + random.normal(0, 25, size=(6, size, 16, 16, 3))
        labels = np.repeat(np.arange(6), size)
        shuffled = random.permutation(len(labels))
        pixels = np.clip(images, 0, 255).astype(np.uint8).reshape(-1, 16, 16, 3)
        np.save(root / f"{split}_x.npy", pixels[shuffled])
        np.save(root / f"{split}_y.npy", labels[shuffled])
    return root


@pytest.fixture(autouse=True)
def same_arithmetic_afterwards(monkeypatch):
    """A run sets threads and kernels for its process; the next test finds them as they were."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    threads, deterministic = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(deterministic)
    use_fused_kernels(False)
