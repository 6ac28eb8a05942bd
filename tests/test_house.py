"""The rules of the house that a machine can check."""

import ast
import re
import subprocess
import sys

import pytest

from utils.config.registry import ROOT

PACKAGES = ("backbone", "datasets", "models", "utils")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# What the files of each room may import of the suite, beside their own room; a room of `utils` by its name.
LEAVES = {"errors", "inference", "interruption", "locks", "machine", "optimizer", "passes", "seeds", "slurm"}
ROOMS = {
    "config": LEAVES,
    "data": {"config", *LEAVES},
    "records": {"config", *LEAVES},
    "run": {"config", "data", "records", *LEAVES},
    "report": {"config", "records", *LEAVES},
    "launch": {"config", "data", "records", "report", *LEAVES},
    "backbone": {"config", *LEAVES},
    "datasets": {"config", "data", *LEAVES},
    "models": {"config", "data", *LEAVES},
}
NORM_FUNCTIONS = {
    "BatchContext",
    "batch_context",
    "begin_task",
    "norm_loss",
    "norm_parameters",
    "num_described",
    "rows_needed",
    "separate_batches",
    "takes_batches",
    "undecayed_parameters",
}

# The bottom of the order of imports; they import no torch.
NORM_BASICS = {"backbone.norm.errors", "backbone.norm.options", "backbone.norm.registry"}


def imports(path):
    """(module, imported name) of every import of the suite's own packages, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        yield from (pair for pair in found if pair[0].split(".")[0] in PACKAGES)


def room_of(parts):
    """A folder of `utils`, one of its leaves, or another package."""
    return parts[1].removesuffix(".py") if parts[0] == "utils" and len(parts) > 1 else parts[0]


def is_allowed(path, module, name):
    place = path.relative_to(ROOT)
    if place.as_posix() == "utils/main.py":
        return True
    room, target = room_of(place.parts), name if module == "utils" else room_of(tuple(module.split(".")))
    if room == "models" and target == "backbone":
        return module == "backbone.norm" and name in NORM_FUNCTIONS
    if place.parts[:2] == ("utils", "config") and target == "backbone":
        return module in NORM_BASICS
    return target == room or target in ROOMS.get(room, LEAVES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    wrong = [f"{module}.{name}" for module, name in imports(path) if not is_allowed(path, module, name)]
    assert not wrong


def test_the_norm_layers_stand_alone():
    for path in (ROOT / "backbone/norm").glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert all(node.level < 2 for node in nodes if isinstance(node, ast.ImportFrom)), path
        assert not list(imports(path)), path


def test_no_file_is_named_like_a_standard_module():
    assert not {path.stem for path in (ROOT / "utils").glob("*.py")} & (sys.stdlib_module_names - {"__init__"})


def test_every_room_is_known():
    rooms = {path.name for path in (ROOT / "utils").iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    leaves = {path.stem for path in (ROOT / "utils").glob("*.py")} - {"__init__", "main"}
    assert rooms | {"backbone", "datasets", "models"} == ROOMS.keys()
    assert leaves == LEAVES


def test_importing_a_package_does_nothing():
    script = (
        "import os, sys, torch\n"
        "before = os.getcwd(), list(sys.path), torch.random.get_rng_state().sum()\n"
        "from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS, STREAMS\n"
        "parts = (BACKBONES, DATASETS, METHODS, NORMS, STREAMS)\n"
        "[registry.get(name) for registry in parts for name in registry.names()]\n"
        "assert before == (os.getcwd(), list(sys.path), torch.random.get_rng_state().sum())\n"
        "assert not {'wandb', 'torchvision', 'pandas', 'GPUtil'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_every_test_has_its_place():
    """`tests/a/test_b.py` or `tests/a/test_b_topic.py` tests `a/b.py`, `a/_b.py` or `a/b/`."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        mirrored = path.relative_to(ROOT / "tests")
        if len(mirrored.parts) == 1 or mirrored.stem in ("test_golden", "test_parts", "test_layers"):
            continue
        words = re.sub("^test_", "", mirrored.stem).split("_")
        names = ["_".join(words[:end]) for end in range(1, len(words) + 1)]
        folder = ROOT / mirrored.parent
        places = [folder / place for name in names for place in (f"{name}.py", f"_{name}.py", name)]
        assert any(place.exists() for place in places), path
