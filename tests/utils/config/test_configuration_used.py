"""Every option that an offline run accepts changes what comes out, or is one run with what it stands for."""

import json
import shlex
from functools import cache

import pytest

from models.exemplar import PAIR_OPTIONS, ExemplarMethod
from utils.config.configuration import configure
from utils.config.registry import METHODS
from utils.errors import UserError
from utils.main import main

pytestmark = pytest.mark.usefixtures("shallow")

OFFLINE = [name for name in METHODS.names() if METHODS.get(name).protocol == "offline"]
SETTING = "--dataset seq-arrays --n_tasks 3 --backbone resnet18 --nf 4 --batch_size 8 --buffer_size 7 --lr 0.05"
SECOND = {"eeil": "--second_epochs 2", "podnet": "--second_epochs 2", "afc": "--second_epochs 2"}

# What the choices of an option do not tell: another value, or none where nothing could be seen on a CPU or in one run.
OTHER_VALUES = {
    "affine": [False],
    "batch_ratio": [1],
    "budget_steps": [20],
    "batch_size": [16],
    "buffer_size": [16],
    "class_order": ["identity"],
    "classes_per_task": [3],
    "crop_padding": [2],
    "debug_mode": [2],
    "epochs": [3],
    "eval_every": [2],
    "eval_images": [],  # needs inside evaluations; tried beside them below
    "exemplar_selection": ["random"],  # the two kinds of herding differ after many places
    "first_task_classes": [3],
    "fast": [],  # other kernels, of a GPU
    "ignore_other_metrics": [],  # forward transfer is refused where outputs are added
    "lr_decay": [0.5],
    "lucir_rivals": [1],
    "lr_schedule": ["cosine"],
    "milestones": [","],  # none
    "n_tasks": [2],
    "nf": [5],
    "optim_mom": [0.5],
    "optim_nesterov": [],  # needs momentum; tried beside it below
    "optimizer": [],  # needs a weight decay of its own; tried beside one below
    "precision": ["bf16"],  # tf32 is of a GPU
    "retune_norms": [1],
    "seed": [1],
    "val_fraction": [0.2],
    "validation": [0.2],
}
NAMES_OF_PARTS = {"model", "dataset", "nl", "backbone", "protocol", "stream"}
SEEDS = (0, 1, 2)  # what rarely differs, such as the best epoch from the last, does so for one of them

_COMBINED = [  # (line, changed)
    ("--model ft --optim_mom 0.5", "--optim_nesterov"),
    ("--model ft --optim_wd 0.01", "--optimizer adam"),
    ("--model ft --optim_wd 0.01 --optimizer adam", "--optimizer adamw"),
    ("--model ft --optim_wd 0.01 --optimizer adam", "--optim_beta1 0.5"),
    ("--model ft --optim_wd 0.01 --optimizer adam", "--optim_beta2 0.5"),
    ("--model ft --optim_wd 0.01 --optimizer adam", "--optim_eps 0.1"),
    ("--model ft --val_fraction 0.2 --best_epoch last", "--val_fraction 0.3"),
    ("--model eeil --batching union", "--batch_ratio 1"),
    ("--model eeil --batching union", "--ratio_cycle reshuffle"),
    ("--model icarl --batching ratio", "--batch_ratio 1"),
    ("--model icarl --batching ratio", "--current_pool union"),
    ("--model lucir --lucir_distill scores", "--lucir_lambda 2"),
    ("--model ft --eval_every 2", "--eval_images 6"),
    ("--model ft --nl AdaB2N", "--lambd 0.3"),
    ("--model ft --nl AdaB2N", "--kappa 0.9"),
    ("--model ft --nl AdaB2N", "--ada_t0 2"),
    ("--model ft --n_tasks 2", "--quota floor"),
]


@pytest.fixture(scope="module")
def outcome(small_root, tmp_path_factory):
    """What comes out of a line: everything that a record tells but times and identity; None if it is refused."""

    @cache
    def run(line):
        results = tmp_path_factory.mktemp("results")
        words = [*shlex.split(line), "--data_root", str(small_root), "--results_dir", str(results), "--threads", "1"]
        if main([*words, "--device", "cpu", "--nowand", "--non_verbose"]) == 2:
            return None
        (path,) = results.rglob("result.json")
        result = json.loads(path.read_text())
        return {name: each for name, each in result.items() if name not in ("identity", "timings", "peak_memory")}

    return run


def line_of(method):
    return f"--model {method} {SETTING} --epochs 2 {SECOND.get(method, '')}"


def tried(config, method):
    """Options whose values are changed; those that all methods share with one of them alone."""
    parts = (PAIR_OPTIONS, METHODS.get(method).options[len(ExemplarMethod.options) :])
    own = [option for options in parts for option in options]
    options = config.options.values() if method == "ft" else own
    names = [option.name for option in options if option.changes_result and not option.stands_for]
    return [name for name in names if name not in NAMES_OF_PARTS]


def others(config, name):
    """Further values of an option."""
    option, present = config.options[name], config.values[name]
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if option.choices:
        return [choice for choice in option.choices if choice != present]
    if isinstance(present, bool):
        return [not present]
    return [present + 1 if option.type.__name__ == "int" else 2 * present + 0.01]


def with_option(line, name, value):
    """The line with an option in the place of the one that it has."""
    words = shlex.split(line)
    if f"--{name}" in words:
        place = words.index(f"--{name}")
        del words[place : place + 2]
    return shlex.join([*words, f"--{name}", str(value)])


def is_another_run(line, name, value):
    """Whether a line with this option is taken, and not as the same computation."""
    try:
        changed = configure(shlex.split(with_option(line, name, value)))
    except UserError:
        return False
    return changed.identity("") != configure(shlex.split(line)).identity("")


def differs(outcome, line, name, value):
    """Whether a run with this option, if it is not refused, ends otherwise for some seed."""
    for seed in SEEDS if name != "seed" else SEEDS[:1]:
        seeded = f"{line} --seed {seed}" if name != "seed" else line
        changed = outcome(with_option(seeded, name, value))
        if changed is None or changed != outcome(seeded):
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("method", OFFLINE)
def test_every_other_value_that_is_another_run_gives_another_result(method, outcome):
    line = line_of(method)
    config = configure(shlex.split(line))
    changes = [(name, value) for name in tried(config, method) for value in others(config, name)]
    others_runs = [change for change in changes if is_another_run(line, *change)]
    assert [change for change in others_runs if not differs(outcome, line, *change)] == []


@pytest.mark.slow
@pytest.mark.parametrize(("line", "changed"), _COMBINED)
def test_options_beside_others_give_another_result(line, changed, outcome):
    method = shlex.split(line)[1]
    line = line_of(method) + line.removeprefix(f"--model {method}")
    usual = outcome(line)
    assert usual is not None
    assert outcome(f"{line} {changed}") not in (usual, None)
