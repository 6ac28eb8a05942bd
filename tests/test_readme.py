"""What the README and the pages in docs/ say is what happens."""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from tests.utils.report.rig import ONLINE, write_record
from utils.config.configuration import configure
from utils.config.options import ABSENT, SHARED_OPTIONS
from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS, ROOT, STREAMS
from utils.launch.cli import LAUNCH_OPTIONS, main
from utils.launch.job import Data
from utils.records.metrics import METRICS

README = ROOT / "README.md"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (README, *sorted((ROOT / "docs").glob("*.md")))}
TEXT = "\n".join(PAGES.values())


@dataclass(frozen=True)
class Block:
    """A block of code on a page.

    Attributes:
        page: name of the file.
        section: the heading that it stands under.
        language: `python`, `text` for what is printed, empty for commands.
        content: what it holds.
    """

    page: str
    section: str
    language: str
    content: str


def blocks_of(page):
    for section in re.split(r"^#+ ", PAGES[page], flags=re.MULTILINE):
        title = section.partition("\n")[0]
        for language, content in re.findall(r"^```(\w*)\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
            yield Block(page, title, language, content)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [
    line.rpartition("&& ")[2]
    for block in BLOCKS
    if not block.language
    for line in block.content.splitlines()
    if "python" in line
]
WITH_PLUGIN = [command for command in COMMANDS if "--plugin" in command]


GRID_OF_PLUGINS = [command for command in WITH_PLUGIN if command.startswith("python run.py")]


def commands(start):
    return [command for command in dict.fromkeys(COMMANDS) if command.startswith(start) and command not in WITH_PLUGIN]


def run(command, folder):
    words = [sys.executable, *shlex.split(command)[1:]]
    words[1] = str(ROOT / words[1])
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


# -- Pages ------------------------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_leads_to_every_page():
    text = PAGES[README.name]
    assert len(text.splitlines()) < 150
    assert [name for name in PAGES if name != README.name and f"(docs/{name})" not in text] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = README.parent if page == README.name else README.parent / "docs"
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", PAGES[page]):
        path, _, heading = target.partition("#")
        linked = folder / path if path else folder / page
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


@pytest.mark.parametrize("registry", [METHODS, DATASETS, STREAMS, NORMS, BACKBONES], ids=lambda registry: registry.kind)
def test_every_part_is_named(registry):
    assert [name for name in registry.names() if f"`{name}`" not in PAGES[README.name]] == []


def test_every_metric_is_named():
    assert [each.name for each in METRICS.values() if f"| `{each.name}` | {each.title}" not in PAGES["runs.md"]] == []


# -- Options ----------------------------------------------------------------------------------------------------------


def named_in(text):
    return set(re.findall(r"(?<![-\w])--[a-z][a-z_0-9]*", text))


def options_of_parts():
    for registry in (METHODS, DATASETS, STREAMS, NORMS, BACKBONES):
        for name in registry.names():
            part = registry.get(name)
            yield from (*part.options, *getattr(part, "regularizer_options", ()))


@cache
def declared_options():
    """Of runs, of parts, of the launcher, and of the commands of run.py, as their help names them."""
    declared = (*SHARED_OPTIONS, *options_of_parts(), *LAUNCH_OPTIONS)
    shown = io.StringIO()
    for command in ("status", "table", "compare", "data", "cancel", "slurm-job"):
        with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
            main([command, "--help"])
    spelled = {f"--{spelling}" for option in declared for spelling in option.spellings if len(spelling) > 1}
    return (spelled | named_in(shown.getvalue())) - {"--help"}


def test_every_named_option_exists():
    known = declared_options() | {"--help", "--check", "--dist"}  # the latter are options of ruff and pytest
    in_examples = set()  # those of the plug-ins that the pages show, and of other programs where the page says so
    for block in BLOCKS:
        if block.language == "python":
            in_examples |= {f"--{name}" for name in re.findall(r'Option\("(\w+)"', block.content)}
    text = re.sub('--sbatch="[^"]*"', "--sbatch", TEXT.replace(PAGES["coming-from.md"], ""))  # Slurm's own in it
    assert named_in(text) <= known | in_examples
    assert named_in(PAGES["coming-from.md"]) <= known | {f"--{name}" for name in ABSENT}


def test_every_option_is_named():
    assert declared_options() - named_in(TEXT) == set()


# -- Commands ---------------------------------------------------------------------------------------------------------


def test_the_first_result(tmp_path):
    (command,) = [command for command in commands("python utils/main.py") if command.endswith("--preset demo")]
    shown = run(f"{command} --debug_mode 2", tmp_path)  # `test_the_first_table` trains as many steps as the preset has
    assert shown.returncode == 0, shown.stderr
    assert "after task 5/5" in shown.stdout
    assert "lr 0.1, lr_schedule cosine" in shown.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.slow
def test_the_first_table(tmp_path):
    (command,) = [command for command in commands("python run.py") if command.endswith("--preset demo -y")]
    shown = run(f"{command} --num_seeds 1 --models er", tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "4 of 4 runs complete" in shown.stdout
    assert "| TBBN |" in (tmp_path / "results" / "demo" / "table.md").read_text()
    again = run(f"{command} --num_seeds 1 --models er", tmp_path)
    assert again.returncode == 0
    assert "started" not in again.stdout


@pytest.mark.parametrize("command", commands("python utils/main.py"))
def test_every_command_of_a_run_is_understood(command):
    with pytest.raises(SystemExit) if "--help" in command else contextlib.nullcontext():
        configure(shlex.split(command)[2:])


@pytest.mark.parametrize("command", commands("python run.py -"))
def test_every_command_of_a_grid_has_a_plan(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("utils.launch.plan.DataFacts.of", lambda self, config: Data(config.dataset, (50,) * 100))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "setup.sh").touch()  # of the page on clusters
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main([*shlex.split(command)[2:], "--dry_run"]) == 0
    assert "python utils/main.py --model" in capsys.readouterr().out


@pytest.mark.parametrize("command", [each for each in commands("python run.py ") if each.split()[2][0] != "-"])
def test_every_other_command_is_understood(command, tmp_path, monkeypatch, capsys):
    for group in ("demo", "demo-2"):
        write_record(tmp_path / "results" / group / "run", {**ONLINE, "nl": "BN", "seed": 0}, finals=[50, 50])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.arrays.Dataset.download", lambda self, data_root: None)
    monkeypatch.setattr("time.sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))  # of --watch
    code = main(shlex.split(command)[2:])
    told = capsys.readouterr()
    if "cancel" in command:
        assert "no launcher is running results/demo" in told.err
    else:
        assert code == 0 or "--watch" in command, told.err
        assert told.out


def test_example_without_data_says_where_to_put_it(tmp_path):
    command = next(command for command in COMMANDS if "main.py" in command and "seq-cifar10 " in command)
    shown = run(command, tmp_path)
    assert shown.returncode == 2
    assert "cifar10" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not list(tmp_path.iterdir())


# -- Python -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [block.page for block in BLOCKS if "batch_context(network" in block.content])
def test_converting_a_network_as_shown(page):
    import torch
    from torchvision.models import resnet18

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
    for block in blocks_of(page):
        if block.language == "python":
            exec(block.content, given)
    assert given["loss"].isfinite()


TINY = "--nf 4 --threads 1 --nowand 1 --debug_mode 2"
DRIVER = """
import contextlib, io, json, multiprocessing, sys
import models.er, backbone.norm.gn  # torch, once
from utils.main import main

def start(words):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(words)
    return code, out.getvalue(), err.getvalue()

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        json.dump(pool.map(start, json.load(sys.stdin), chunksize=1), sys.stdout)
"""


def start_all(commands, folder):
    """(exit code, output, errors) of each command line of a run, in processes of their own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CL_DATA_ROOT": str(folder / "data")}
    shown = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(commands),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


# What a beginner forgets, by the section: pairs of what stands on the page and what stands there in its place.
MISTAKES = {
    "A norm layer": ((", affine=True", ""), ("make_affine(affine,", "make_affine(True,")),
    "A method": (("        return losses\n", ""),),
    "A dataset": (
        ('    transforms = {protocol: {"crop_padding": 2, "flip": True} for protocol in ("online", "offline")}\n', ""),
    ),
}


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """Every plug-in of the page, and with the mistakes of above: (exit code, output, errors) by section and kind."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "data" / "flowers").mkdir(parents=True)
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        np.save(folder / "data" / "flowers" / f"{split}_x.npy", random.integers(0, 256, (40, 16, 16, 3), np.uint8))
        np.save(folder / "data" / "flowers" / f"{split}_y.npy", np.arange(40) % 4)
    starts = {}
    for section, (plugin, command) in examples().items():
        starts[section, "as shown"] = (plugin, command)
        if section in MISTAKES:
            for shown, mistaken in MISTAKES[section]:
                assert plugin.count(shown) == 1
                plugin = plugin.replace(shown, mistaken)
            starts[section, "mistaken"] = (plugin, command)
    lines = []
    for number, (plugin, command) in enumerate(starts.values()):
        file = folder / str(number) / "mine.py"
        file.parent.mkdir()
        file.write_text(plugin, encoding="utf-8")
        words = shlex.split(command)[2:]
        words[words.index("mine.py")] = str(file)
        lines.append([*words, *TINY.split(), "--results_dir", str(file.parent / "results")])
    return dict(zip(starts, start_all(lines, folder), strict=True)), folder


def examples():
    """The plug-in and the command of each section of docs/parts.md."""
    found = {}
    for block in blocks_of("parts.md"):
        found.setdefault(block.section, {})[block.language] = block.content
    return {section: (each["python"], each[""].strip()) for section, each in found.items() if "python" in each}


def test_every_command_with_a_plugin_is_one_of_the_examples():
    assert [*(command for _, command in examples().values()), *GRID_OF_PLUGINS] == WITH_PLUGIN


@pytest.mark.parametrize("section", examples())
def test_plugins_run_as_shown(plugins, section):
    code, out, err = plugins[0][section, "as shown"]
    assert code == 0, err
    assert "Class-IL: A_f" in out


@pytest.mark.parametrize("section", MISTAKES)
def test_messages_for_typical_mistakes_are_as_shown(plugins, section):
    (message,) = [b.content.strip() for b in blocks_of("parts.md") if (b.section, b.language) == (section, "text")]
    code, _, err = plugins[0][section, "mistaken"]
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_grid_of_plugins_searches_their_option_and_ends_with_their_table(plugins, tmp_path):
    (tmp_path / "data").symlink_to(plugins[1] / "data")
    parts = [plugin for plugin, _ in examples().values()]
    (tmp_path / "mine.py").write_text("\n".join(parts), encoding="utf-8")
    grid, table = GRID_OF_PLUGINS
    shown = run(f"{grid} -y --num_seeds 1 --nf 4 --nowandb", tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "3 of 3 runs complete" in shown.stdout
    (chosen,) = re.findall(r"seq-flowers er_smooth 20: rms_share (0\.25|0\.5) \(of 2 tried\)", shown.stdout)
    assert chosen
    for row in ("| RMSN | 1 |", "| RMSN-part | 2 |"):
        assert row in shown.stdout
    told = run(table, tmp_path)
    assert told.returncode == 0, told.stderr
    assert "Accuracy of the worst task at the end" in told.stdout
    assert "| RMSN-part | 2 |" in told.stdout


def test_an_added_metric_is_in_the_result(plugins):
    results = [path for path in plugins[1].rglob("result.json") if '"worst"' in path.read_text(encoding="utf-8")]
    assert len(results) == 1


def test_the_trained_network_is_loaded_as_shown(plugins):
    """In a process of its own, which keeps the run's plug-in."""
    folder = next(plugins[1].rglob("model.pt")).parent
    (block,) = [block for block in BLOCKS if "load_run" in block.content]
    lines = [
        "import torch",
        f"folder, images = {str(folder)!r}, torch.zeros((2, 3, 16, 16), dtype=torch.uint8)",
        block.content,
        "assert scores.shape == (2, 10)",
        "assert sorted(learnt_as) == list(range(10))",
        "assert seed == 0",
    ]
    shown = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
