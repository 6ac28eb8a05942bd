import json
from types import SimpleNamespace

import pytest

from utils.config.configuration import configure
from utils.config.registry import METHODS, NORMS
from utils.errors import UserError
from utils.launch.job import CommonOptions, Data, DataFacts, make_job
from utils.launch.steps import StepCounts, check_evaluations, count_steps
from utils.main import main
from utils.records.ledger import Axes
from utils.run import diagnosis

pytestmark = pytest.mark.usefixtures("shallow")

SMALL = "--dataset seq-digits --lr 0.01 --epochs 1 --buffer_size 20 --nf 2 --backbone resnet18"
SIZES = (30, 25, 31, 30, 30, 28, 30, 30, 29, 30)
WEIGHTS = {
    "der": "--alpha 0.1",
    "derpp": "--alpha 0.1 --beta 0.1",
    "podnet": "--second_epochs 2 --second_lr 0.1 --podnet_lambda_f 1 --podnet_lambda_c 1",
    "afc": "--second_epochs 2 --second_lr 0.1 --afc_lambda 1",
    "eeil": "--second_epochs 2",
}


def configuration(model, more="", buffer_size=24):
    method = METHODS.get(model)
    words = f"--model {model} --dataset seq-digits --lr 0.1 --epochs 3 --batch_size 8 {WEIGHTS.get(model, '')} {more}"
    return configure([*words.split(), *(["--buffer_size", str(buffer_size)] if method.uses_memory else [])])


def job(config, sizes=SIZES, fingerprint="data"):
    data, identity = Data(fingerprint, tuple(sizes)), config.identity(fingerprint)
    return SimpleNamespace(config=config, data=data, identity=identity, name="the run")


@pytest.mark.parametrize(
    ("model", "more", "steps"),
    [
        # 55 + 61 + 58 + 60 + 59 images, the short last batch of each task included
        ("sgd", "", (21, 24, 24, 24, 24)),
        ("er", "--epochs 1", (7, 8, 8, 8, 8)),
        ("er_ace", "--batch_size 60", (3, 6, 3, 3, 3)),
        ("der", "--buffer_mode ring", (21, 24, 24, 24, 24)),
        ("joint", "", (0, 0, 0, 0, 111)),
        # a tenth of each class is held out: 3 of 25 to 31, but 2 of 25; a last batch that is not full is left out
        ("joint", "--protocol offline", (18, 39, 57, 78, 99)),
        ("sgd", "--validation 0.1", (21, 21, 21, 21, 21)),
    ],
)
def test_steps_of_a_task(model, more, steps):
    counted = count_steps(configuration(model, more), SIZES)
    assert tuple(map(sum, counted)) == steps


def test_a_small_share_takes_an_image_of_each_class_as_in_a_run():
    counted = count_steps(configuration("sgd", "--validation 0.01 --batch_size 1 --epochs 1"), (5,) * 10)
    assert tuple(map(sum, counted)) == (8,) * 5


@pytest.mark.parametrize("model", METHODS.names())
def test_every_method_is_counted(model):
    counted = count_steps(configuration(model), SIZES)
    assert len(counted) == 5
    assert sum(counted[-1]) > 0


def test_stages_are_counted_each():
    counted = count_steps(configuration("podnet", "--val_fraction 0 --best_epoch last", buffer_size=200), [30] * 10)
    assert counted[0] == (3 * 7,)
    assert counted[1][1] == 2 * 15  # 30 exemplars of each of four classes, those of the task among them


@pytest.mark.parametrize(
    "words",
    [
        "sgd --batch_size 40",
        "sgd --batch_size 40 --budget_steps 25",
        "afc --buffer_size 50 --batch_size 32 --second_epochs 2",
    ],
)
def test_a_run_trains_as_many_steps(tmp_path, words):
    backbone = "--backbone podnet_resnet18 --nf 4" if words.startswith("afc") else "--nf 2"
    words = f"--model {words} --dataset seq-digits --lr 0.01 --epochs 2 --class_order identity {backbone}".split()
    config = configure(words)
    sizes = DataFacts(tmp_path).of(config).class_sizes
    assert main([*words, "--results_dir", str(tmp_path), "--nowand", "1", "--threads", "1"]) == 0
    (result,) = tmp_path.glob("*/*/result.json")
    assert json.loads(result.read_text())["steps"] == sum(map(sum, count_steps(config, sizes)))


def test_runs_that_differ_by_norm_layer_and_seed_are_counted_once(monkeypatch):
    counts = []
    monkeypatch.setattr("utils.launch.steps.count_steps", lambda config, sizes: counts.append(config) or ((1,),))
    steps = StepCounts()
    for more in ("--seed 1", "--seed 2", "--nl GN", "--nl AdaB2N --kappa 0.1", "--nl AdaB2N --kappa 0.4"):
        assert steps.of(job(configuration("er", more))) == 1
    assert len(counts) == 1
    steps.of(job(configuration("er", "--batch_size 5")))
    steps.of(job(configuration("er"), fingerprint="other data"))
    assert len(counts) == 3


@pytest.mark.parametrize(
    "more", ["--stream gaussian", "--stream si-blurry", "--imbalance exp --imbalance_ratio 10 --imbalance_order random"]
)
def test_steps_that_the_seed_decides_are_counted_for_each_seed(more):
    steps = StepCounts()
    jobs = [job(configuration("er", f"--epochs 1 --batch_size 4 {more} --seed {seed}")) for seed in range(3)]
    counted = [steps.of_stages(each) for each in jobs]
    assert counted == [count_steps(each.config, SIZES) for each in jobs]
    assert len(set(counted)) == 3


def test_a_run_that_cannot_fill_a_batch_is_named():
    assert StepCounts().of(job(configuration("ft", "--batch_size 4"), [3] * 10)) > 0
    with pytest.raises(UserError, match=r"^the run: task 1: there are 4 images for the 64 rows of a batch"):
        StepCounts().of(job(configuration("ft", "--batch_size 64"), [3] * 10))


def test_stages_that_fail_are_told_with_the_run(monkeypatch):
    def stages(cls, config, sizes, task):
        raise RuntimeError("no network")

    monkeypatch.setattr(METHODS.get("er"), "stages", classmethod(stages))
    with pytest.raises(UserError, match=r"^the run: --model er: its `stages` fails for task 1 with RuntimeError: no"):
        StepCounts().of(job(configuration("er")))


def test_counts_are_exact_where_the_order_of_classes_changes_nothing():
    assert StepCounts.are_exact(job(configuration("er"), [30] * 10))
    assert not StepCounts.are_exact(job(configuration("er")))


@pytest.mark.parametrize(
    ("model", "more", "steps"),
    [
        # after tasks of 60 images each, of which 54 are not held out; batches of 8, short ones left out
        ("ft", "--retune_norms 2", 2 * (6 + 13 + 20 + 27 + 33)),
        ("er", "--retune_norms 1 --epochs 1", 7 + 15 + 22 + 30 + 37),
        ("joint", "--retune_norms 1", 37),
        ("ft", "--retune_norms 2 --nl GN", 0),
        ("ft", "--retune_norms 2 --nl GN --affine true", 2 * 99),
        ("ft", "--retune_norms 2 --nl TBBN --affine false", 2 * 99),
        ("ft", "", 0),
    ],
)
def test_steps_of_retuning_norm_layers(model, more, steps):
    assert StepCounts().of_retuning(job(configuration(model, more), [30] * 10)) == steps


@pytest.mark.parametrize("norm", NORMS.names())
def test_retuning_of_every_layer_is_counted(norm):
    assert StepCounts().of_retuning(job(configuration("ft", f"--nl {norm} --retune_norms 1"), [30] * 10)) is not None


def test_a_run_retunes_as_many_steps(tmp_path, monkeypatch):
    words = f"{SMALL} --model ft --retune_norms 1 --class_order identity".split()
    config = configure(words)
    counted, original = [], diagnosis.train_alone
    monkeypatch.setattr(diagnosis, "train_alone", lambda *given: (counted.append(1) for _ in original(*given)))
    places = ["--results_dir", str(tmp_path), "--nowand", "1", "--threads", "1"]
    assert main([*words, *places]) == 0
    facts = DataFacts(tmp_path).of(config)
    assert len(counted) == StepCounts().of_retuning(job(config, facts.class_sizes))


@pytest.mark.parametrize(
    "more",
    [
        "--eval_every 1000",
        "--eval_every 1000 --seed 3 --imbalance exp --imbalance_ratio 5",
        "--eval_every 1000 --seed 3 --class_order 9,8,7,6,5,4,3,2,1,0",
        "--eval_every 1000 --seed 2 --stream si-blurry --budget_steps 20",
        "--eval_every 5 --eval_images 72 --seed 1",
        "--eval_every 5 --eval_images 30 --validation 0.1",
        "--eval_every 5 --eval_images 1",
    ],
)
def test_a_plan_refuses_evaluations_in_the_words_of_a_run(more, tmp_path, capsys):
    words = f"--model er {SMALL} {more}".split()
    assert main([*words, "--results_dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err.removeprefix("error: ").strip()
    planned = make_job(tuple(words), CommonOptions(tmp_path, "group", tmp_path), DataFacts(tmp_path).of, Axes())
    with pytest.raises(UserError) as refused:
        check_evaluations([planned])
    assert str(refused.value) == f"{planned.name}: {said}"
