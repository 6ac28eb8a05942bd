"""`pip install .` installs the norm layers alone, and they work beside packages named like the suite's."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from utils.config.registry import NORMS, ROOT

TRAIN = """
import copy, sys
import continual_norms
from continual_norms import NORMS

print(*NORMS.names())
assert "torch" not in sys.modules
import torch
from torchvision.models import resnet18
from continual_norms import *
for name in NORMS.names():
    torch.manual_seed(0)
    network = convert_norms(resnet18(num_classes=4), name, input_size=64, num_tasks=3)
    assert sum(isinstance(module, NORMS.get(name)) for module in network.modules()) == 20
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    begin_task(network, 2)
    with batch_context(network, BatchContext(2, torch.tensor([2, 2, 2, 2, 0, 1]), 4)):
        scores = network(torch.randn(6, 3, 64, 64))
    loss = scores.square().sum() + 0.1 * norm_loss(network)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(copy.deepcopy(network).eval()(torch.randn(2, 3, 64, 64))).all()
assert not {"utils", "models", "datasets", "backbone"} & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built without network, from a copy, so that nothing is left in the repository."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("backbone", "datasets", "models", "utils"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "run.py"):
        shutil.copy(ROOT / name, source / name)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(target))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    return next(target.glob("continual_norms-*.whl"))


@pytest.mark.slow
def test_only_the_layers_are_installed(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"continual_norms"}


@pytest.mark.slow
def test_layers_work_beside_packages_named_like_the_suites(wheel, tmp_path):
    options = ("--quiet", "--no-deps", "--no-index", "--target", str(tmp_path / "site"))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    for name in ("utils", "models", "datasets", "backbone"):
        (tmp_path / "project" / name).mkdir(parents=True)
        (tmp_path / "project" / name / "__init__.py").write_text("raise ImportError('of another project')\n")
    (tmp_path / "project" / "train.py").write_text(TRAIN)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path / "project", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == NORMS.names()
