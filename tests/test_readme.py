"""What the README says is what happens."""

import re
import shlex
import subprocess
import sys

import pytest

from utils.config.configuration import configure
from utils.config.options import SHARED_OPTIONS
from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS, ROOT
from utils.launch.cli import _launch_parser, main

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.rpartition("&& ")[2]
    for block in re.findall(r"```\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if "python" in line
]


def run(command, folder):
    words = [sys.executable, *shlex.split(command)[1:]]
    words[1] = str(ROOT / words[1])
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


def test_the_first_result(tmp_path):
    (command,) = [command for command in COMMANDS if "utils/main.py --preset demo" in command]
    shown = run(command, tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "after task 5/5" in shown.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.slow
def test_the_first_table(tmp_path):
    (command,) = [command for command in COMMANDS if "run.py --preset demo" in command]
    shown = run(f"{command} --num_seeds 1 --models er", tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "6 of 6 runs complete" in shown.stdout
    assert "| TBBN |" in (tmp_path / "results" / "demo" / "table.md").read_text()
    again = run(f"{command} --num_seeds 1 --models er", tmp_path)
    assert again.returncode == 0
    assert "started" not in again.stdout


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python utils/main.py")])
def test_every_command_of_a_run_is_understood(command):
    configure(shlex.split(command)[2:])


def test_example_without_data_says_where_to_put_it(tmp_path):
    (command,) = [command for command in COMMANDS if "main.py" in command and "seq-cifar10 " in command]
    shown = run(command, tmp_path)
    assert shown.returncode == 2
    assert "cifar10" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("registry", [METHODS, DATASETS, NORMS, BACKBONES], ids=lambda registry: registry.kind)
def test_every_part_is_named(registry):
    assert all(f"`{name}`" in README for name in registry.names())


def named_in(text):
    return set(re.findall(r"--[a-z][a-z_0-9]+", text))


def test_every_named_option_exists(capsys):
    launcher = {word for action in _launch_parser()._actions for word in action.option_strings}
    known = launcher | {f"--{spelling}" for option in SHARED_OPTIONS for spelling in (option.name, *option.aliases)}
    for registry in (METHODS, DATASETS, NORMS, BACKBONES):
        for name in registry.names():
            part = registry.get(name)
            declared = (*part.options, *getattr(part, "regularizer_options", ()))
            known |= {f"--{spelling}" for option in declared for spelling in (option.name, *option.aliases)}
    for command in ("status", "table", "compare", "data", "cancel"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
    known |= named_in(capsys.readouterr().out)
    assert named_in(README) <= known | {"--help"}


def test_the_python_example_runs():
    import torch
    from torchvision.models import resnet18

    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    given = {
        "network": resnet18(num_classes=4),
        "task": 1,
        "task_of_sample": torch.tensor([1, 1, 0, 0]),
        "num_current": 2,
        "images": torch.randn(4, 3, 32, 32),
        "labels": torch.tensor([2, 3, 0, 1]),
        "criterion": torch.nn.functional.cross_entropy,
        "lambd": 0.1,
    }
    exec(block, given)
    assert given["loss"].isfinite()
