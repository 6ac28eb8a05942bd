import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from utils.config.configuration import configure, data_root
from utils.config.registry import METHODS, NORMS, ROOT
from utils.errors import UserError

REPLAY = "--buffer_size 500"


def config(line: str):
    return configure(shlex.split(line))


def cell(method="er_ace", dataset="seq-cifar10", more=""):
    memory = REPLAY if METHODS.get(method).uses_memory else ""
    return config(f"--model {method} --dataset {dataset} {memory} {more}")


def identity(*arguments, **more):
    return cell(*arguments, **more).identity("data")


@pytest.mark.parametrize("norm", NORMS.names())
@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_takes_every_norm(method, norm):
    resolved = cell(method, more=f"--nl {norm}")
    shape = {"online": (1, 10), "offline": (160, 64)}[METHODS.get(method).protocol]
    shape = (160, 128) if method in ("podnet", "afc") else shape
    assert (resolved.model, resolved.nl, resolved.epochs, resolved.batch_size) == (method, norm, *shape)


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("--model er_ace --dataset seq-cifar10 --buffer_size 500", {"lr": 0.03, "minibatch_size": 10}),
        ("--model er_ace --dataset seq-miniimg --buffer_size 2000", {"lr": 0.1}),
        ("--model derpp --dataset seq-cifar10 --buffer_size 500", {"lr": 0.03, "alpha": 0.2, "beta": 0.5}),
        ("--model derpp --dataset seq-cifar10 --buffer_size 2000", {"lr": 0.03, "alpha": 0.1, "beta": 1.0}),
        ("--model derpp --dataset seq-cifar100 --buffer_size 5000", {"alpha": 0.1, "beta": 0.5}),
        ("--model derpp --dataset seq-miniimg --buffer_size 5000", {"lr": 0.1, "alpha": 0.3, "beta": 0.8}),
        ("--model der --dataset seq-cifar10 --buffer_size 500", {"lr": 0.03, "alpha": 0.2}),
        ("--model sgd --dataset seq-cifar10", {"lr": 0.1}),
        ("--model sgd --dataset seq-cifar100", {"lr": 0.03, "milestones": (35, 45), "lr_decay": 0.1}),
        ("--model sgd --dataset seq-miniimg", {"milestones": (35, 60, 75), "lr_decay": 0.2}),
        (
            "--model derpp --dataset seq-cifar10 --buffer_size 500 --load_best_args",
            {"lr": 0.03, "alpha": 0.2, "beta": 0.5, "batch_size": 32, "minibatch_size": 32, "epochs": 50},
        ),
        (
            "--model derpp --dataset seq-cifar10 --buffer_size 500 --load_best_args --n_epochs 3 --alpha 0.9",
            {"alpha": 0.9, "batch_size": 32, "epochs": 3},
        ),
        (
            "--model derpp --dataset seq-cifar10 --buffer_size 500 --load_best_args --epochs 1 --bs 10",
            {"batch_size": 10, "minibatch_size": 10, "epochs": 1},
        ),
    ],
)
def test_published_settings(line, values):
    resolved = config(line)
    assert {name: resolved.values[name] for name in values} == values


@pytest.mark.parametrize(
    ("norm", "values"),
    [
        ("GN", {"num_groups": 32, "affine": True}),
        ("CN", {"num_groups": 32, "affine": False}),
        ("IN", {"affine": False}),
        ("BN", {"affine": True}),
        ("AdaB2N", {"kappa": 0.4, "lambd": 0.1, "ada_t0": 0, "affine": True}),
    ],
)
def test_norm_layers_of_the_online_study(norm, values):
    resolved = cell(more=f"--nl {norm}")
    assert {name: resolved.values[name] for name in values} == values


@pytest.mark.parametrize(
    ("method", "norm", "forward"),
    [
        ("er", "BN", "joint"),
        ("er_ace", "BN", "separate"),
        ("der", "CN", "separate"),
        ("derpp", "LN", "separate"),
        *((method, norm, "joint") for method in ("er", "er_ace", "der", "derpp") for norm in ("TBBN", "AdaB2N")),
    ],
)
def test_batch_composition_of_the_online_study(method, norm, forward):
    assert cell(method, more=f"--nl {norm}").forward == forward


def test_where_a_value_came_from_is_kept():
    origins = config("--preset demo --lr 0.5").origins
    assert origins["lr"] == "typed"
    assert origins["dataset"] == origins["nf"] == "preset demo"
    assert origins["backbone"] == "protocol online"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("--bs 10", ""),
        ("--batch_size 10 --n_epochs 1", "--epochs 1"),
        ("--nl AdaB2N --ada_t0 1", "--nl AdaB²N --ada_t0 0"),
        ("--bs 20", "--batch_size 20 --minibatch_size 20"),
        ("--no_task_shuffle", "--class_order identity"),
        ("--no_task_shuffle", "--permute_classes 0"),
        ("--custom_class_order 1,0,2,3,4,5,6,7,8,9", "--class_order 1,0,2,3,4,5,6,7,8,9"),
        ("--enable_other_metrics 1", "--ignore_other_metrics 0"),
        ("--enable_other_metrics 0", ""),
        ("--epochs 9 --lr_milestones 3 5 --sched_multistep_lr_gamma 0.1", "--epochs 9 --milestones 3,5 --lr_decay 0.1"),
        ("--base_path x --results_path y --savecheck last", ""),
        ("--no_affine", "--affine false"),
        ("--nl CN --affine auto", "--nl CN --no_affine"),
        ("--no_affine --affine auto", "--no_affine"),
        ("--nl GN --num_groups 32", "--nl GN"),
        ("--lr 0.03 --minibatch_size 10", ""),
        ("--threads 1 --device cpu --notes x --results_dir y --group z --nowand 1 --checkpoint_every 0", ""),
        ("--validation", "--validation 0.1"),
        ("--fast 0", ""),
        ("--optimizer sgd --lr_schedule step", ""),
        ("--optim_wd 0.1 --decay_norms 1", "--optim_wd 0.1"),
        ("--imbalance exp --imbalance_ratio 1", ""),
        ("--stream blurry --blurry_minor 0", "--stream blurry --blurry_disjoint 1"),
        ("--stream si-blurry --blurry_minor 0", "--stream si-blurry --blurry_disjoint 1"),
        ("--lr_schedule cosine --epochs 9", "--lr_schedule cosine --epochs 9 --protocol online"),
        ("--lr 0.1 --optimizer adam --optim_beta1 0.9 --optim_beta2 0.999", "--lr 0.1 --optimizer adam"),
    ],
)
def test_equal_computations_have_one_identity(first, second):
    assert identity(more=first) == identity(more=second)


@pytest.mark.parametrize(
    "more",
    [
        "--seed 1",
        "--lr 0.1",
        "--nl TBBN",
        "--nl AdaB2N",
        "--nl AdaB2N --ada_t0 2",
        "--nl AdaB2N --kappa 0.7",
        "--forward joint",
        "--buffer_mode ring",
        "--buffer_mode class_balanced",
        "--buffer_mode reservoir_balanced",
        "--nf 20",
        "--backbone resnet32",
        "--validation",
        "--precision bf16",
        "--fast",
        "--debug_mode 3",
        "--no_affine",
        "--optim_mom 0.9",
        "--lr 0.03 --optimizer adam",
        "--lr 0.03 --optimizer adamw",
        "--lr_schedule cosine",
    ],
)
def test_what_changes_a_result_changes_the_identity(more):
    assert identity(more=more) != identity()


def test_without_boundaries_the_regularizer_counts_from_the_first_steps_on():
    first, second = (identity(more=f"--stream gaussian --nl AdaB2N --ada_t0 {task}") for task in range(2))
    assert first != second
    assert identity(more="--stream gaussian --n_tasks 1 --nl AdaB2N --lambd 1") != identity(
        more="--stream gaussian --n_tasks 1 --nl AdaB2N"
    )


def test_other_data_is_another_run():
    assert cell().identity("data") != cell().identity("other data")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--model er_acee --dataset seq-cifar10", r"unknown method 'er_acee'.*Did you mean 'er_ace'"),
        ("--model er_ace --dataset cifar10", r"unknown dataset 'cifar10'.*Did you mean 'seq-cifar10'"),
        ("--model er_ace --dataset seq-cifar10 --nl ADAB3N", r"unknown norm layer.*Did you mean 'AdaB2N'"),
        ("--model er_ace --dataset seq-cifar10 --backbone resnet20", "unknown backbone"),
        ("--model er_ace --dataset seq-cifar10 --protocol of", "unknown protocol"),
        ("--preset dem", "unknown preset"),
        ("--dataset seq-cifar10", "--model is missing"),
        ("--model er_ace", "--dataset is missing"),
        ("--model er_ace --dataset seq-cifar10", "give --buffer_size"),
        ("--model er_ace --dataset seq-cifar10 --buffer_size 0", "give --buffer_size"),
        ("--model sgd --dataset seq-cifar10 --buffer_size 500", r"uses --buffer_size; it belongs to.*method er_ace"),
        ("--model sgd --dataset seq-cifar10 --kappa 0.1", r"uses --kappa; it belongs to norm layer AdaB2N"),
        ("--model sgd --dataset seq-cifar10 --nl AdaB2N --lambd 1", "--lambd needs memory rows"),
        ("--model er --dataset seq-cifar10 --buffer_size 5 --alpha 1", "uses --alpha; it belongs to method der"),
        ("--model sgd --dataset seq-cifar10 --flip 1", "uses --flip; it belongs to dataset seq-arrays"),
        ("--model sgd --dataset seq-cifar10 --lr 1 --n_tasks 11", "--n_tasks leaves a task without classes"),
        ("--model sgd --dataset seq-cifar10 --lr 1 --first_task_classes 10", "--first_task_classes 10 leaves no class"),
        ("--model sgd --dataset seq-cifar10 --n_tasks 2 --classes_per_task 5", "cannot be given together"),
        (
            "--model sgd --dataset seq-cifar10 --backbone resnet32 --nf 3",
            "BN in resnet32. uses --nf; it .* backbone .*resnet18",
        ),
        ("--model sgd --dataset seq-cifar10 --epoch 3", r"unknown option --epoch\. Did you mean --epochs"),
        ("--model sgd --dataset seq-cifar10 --methods BN", "--methods is an option of run.py, .*: give --nl"),
        ("--model sgd --dataset seq-cifar10 --jobs 2", "--jobs is an option of run.py, which runs a grid$"),
        ("--model sgd --dataset seq-cifar10 --threads 100000", "--threads.*must be from 1 to 1024"),
        ("--model sgd --dataset seq-cifar10 word", "unexpected argument 'word'"),
        ("--model sgd --dataset seq-cifar10 --epochs two", "--epochs.*'two' is not an integer"),
        ("--model sgd --dataset seq-cifar10 --epochs 0", "--epochs.*must be at least 1"),
        ("--model sgd --dataset seq-cifar10 --lr nan", "--lr.*must be finite"),
        ("--model sgd --dataset seq-cifar10 --lr -1", "--lr.*must be at least 0"),
        ("--model sgd --dataset seq-cifar10 --precision fp8", "--precision.*not one of fp32, tf32, bf16"),
        ("--model sgd --dataset seq-cifar10 --milestones 5 --lr_decay 0.1", "never reached in --epochs 1"),
        ("--model sgd --dataset seq-cifar10 --milestones 5 --epochs 9", "give --lr_decay"),
        ("--model sgd --dataset seq-cifar10 --lr_decay 0.1", "give --milestones"),
        ("--model sgd --dataset seq-cifar100 --lr_decay 0.1", "give --milestones"),
        ("--model er --dataset seq-digits --buffer_size 0", "give --buffer_size"),
        ("--model er --dataset seq-cifar10 --buffer_size 99999999999999999999", "--buffer_size.*must be from 0"),
        (
            "--model er --dataset seq-cifar10 --buffer_size 5 --nl AdaB2N --lambd 0 --ada_t0 1",
            "--ada_t0 .* --lambd above",
        ),
        ("--model er --dataset seq-cifar10 --buffer_size 5 --nl AdaB2N --ada_t0 5", "never reached"),
        ("--model joint --dataset seq-cifar10 --eval_every 5", "trains once"),
        ("--model sgd --dataset seq-cifar10 --budget_steps 5 --debug_mode 3", "leave out one of them"),
        ("--model sgd --dataset seq-cifar10 --eval_images 5", "--eval_images .* it needs --eval_every above 0"),
        ("--model sgd --dataset seq-cifar10 --nl AdaB2N --renormalize_absent", "needs memory rows"),
        ("--model sgd --dataset seq-cifar10 --group ../x", "--group must be .* without /, and"),
        ("--model sgd --dataset seq-cifar10 --group " + 300 * "x", "--group must be .*: at most 200 bytes"),
        ("--model sgd --dataset seq-cifar10 --milestones 6,5 --lr_decay 0.1 --epochs 9", "increasing order"),
        ("--model sgd --dataset seq-cifar10 --optim_nesterov", "--optim_mom"),
        ("--preset demo --optimizer adam", r"--optimizer adam: give --lr too; 0.1 is for SGD \(preset demo\)"),
        ("--model sgd --dataset seq-cifar10 --optimizer adam", r"give --lr too; 0\.\d+ is for SGD \(published, "),
        (
            "--model podnet --dataset seq-cifar100 --optimizer adamw --lr 0.001",
            r"give --second_lr and --optim_wd too; 0.05 and 0.0005 are for SGD \(published, ",
        ),
        ("--preset demo --optimizer adam --lr 0.1 --optim_mom 0.9", "--optim_mom .* it belongs to --optimizer sgd"),
        ("--preset demo --optim_eps 0.1", "--optim_eps .* it belongs to --optimizer adam and adamw"),
        ("--preset demo --optimizer adam --lr 0.1 --optim_beta1 1", "--optim_beta1.*must be from 0 to"),
        ("--preset demo --decay_norms 0", "--decay_norms .* it needs --optim_wd above 0"),
        *(
            (f"--preset demo --optim_wd 0.1 --decay_norms 0 --nl {norm}", f"--decay_norms .* --nl {name} has no param")
            for norm, name in (("BN --affine 0", "BN"), ("AdaB2N --affine 0", "AdaB2N"), ("IN", "IN"))
        ),
        ("--preset demo --stream blurry --blurry_disjoint 0.3 --blurry_minor 0", "it needs --blurry_minor above 0"),
        ("--preset demo --imbalance exp --imbalance_ratio 1 --imbalance_order head_first", "--imbalance_order changes"),
        ("--preset demo --lr_schedule cosine --milestones 2", "--milestones .* --lr_schedule cosine has no milestones"),
        (
            "--model er --dataset seq-digits --buffer_size 9 --bs 5 --batch_size 5",
            "--bs gives --batch_size its value too",
        ),
        (
            "--model er --dataset seq-digits --buffer_size 9 --minibatch_size 5 --bs 5",
            "--bs gives --minibatch_size its",
        ),
        ("--model sgd --dataset seq-digits --savecheck task", "'task' .* only the state after the last task is kept"),
        (
            "--model sgd --dataset seq-digits --num_workers 4",
            "there is no --num_workers here: images are kept on the device",
        ),
        ("--model sgd --dataset seq-digits --no_affine --affine true", "--no_affine gives --affine its value too"),
        ("--model sgd --dataset seq-arrays", "give --lr"),
        ("--model derpp --dataset seq-cifar10 --buffer_size 77", "give --lr and --alpha and --beta"),
        ("--model er --dataset seq-arrays --buffer_size 7 --load_best_args", "no published setting"),
        ("--model er --dataset seq-cifar10 --buffer_size 5 --forward separate --nl TBBN", "--forward joint"),
        ("--model er --dataset seq-cifar10 --buffer_size 5 --plugin none.py", "no such file"),
    ],
)
def test_mistakes_name_what_to_change(line, message):
    with pytest.raises(UserError, match=message):
        config(line)


@pytest.mark.parametrize("norm", ["SN", "FRN", "DyT"])
def test_norm_layers_have_what_can_be_decayed_beside_scale_and_shift(norm):
    line = f"--preset demo --optim_wd 0.1 --decay_norms 0 --nl {norm} --affine 0"
    assert not configure(line.split()).decay_norms


def test_what_stands_for_other_options_is_none_itself():
    resolved = cell(more="--bs 7 --no_task_shuffle --savecheck last --base_path x --results_path y").values
    assert (resolved["batch_size"], resolved["minibatch_size"]) == (7, 7)
    assert not {"bs", "no_task_shuffle", "savecheck"} & resolved.keys()
    assert (resolved["keep_checkpoint"], resolved["data_root"], resolved["results_dir"]) == (True, "x", "y")
    assert config("--model sgd --dataset seq-cifar10 --bs 7").batch_size == 7


def test_an_untyped_schedule_that_never_fires_is_fine():
    assert cell(dataset="seq-cifar100", more="--epochs 3 --lr 0.1").milestones == (35, 45)


def test_help_is_quick_and_needs_no_torch():
    script = (
        "import sys\nfrom utils.config.configuration import configure\n"
        "try:\n    configure(['--help'])\nexcept SystemExit:\n    assert 'torch' not in sys.modules\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--buffer_size" not in shown.stdout
    assert "er_ace" in shown.stdout


def test_help_shows_the_options_of_the_chosen_parts(capsys):
    with pytest.raises(SystemExit):
        config("--model derpp --nl AdaB2N --help")
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for name in ("beta", "buffer_size", "kappa", "lambd", "nf"))


@pytest.fixture
def shown_help(capsys):
    """The help for a command line, its lines joined."""

    def show(line):
        with pytest.raises(SystemExit):
            config(f"{line} --help")
        return " ".join(capsys.readouterr().out.split())

    return show


@pytest.mark.parametrize(
    ("line", "heading", "option"),
    [
        ("--nl AdaB2N", "norm layer AdaB2N:", "--kappa FLOAT"),
        ("--nl adab2n", "norm layer AdaB2N:", "--lambd FLOAT"),
        ("--dataset seq-arrays", "dataset seq-arrays:", "--crop_padding N"),
        ("--stream split", "stream split:", "--n_tasks N"),
        ("--backbone resnet18", "backbone resnet18:", "--nf N"),
        ("--backbone resnet18 --nl GN", "norm layer GN:", "--num_groups N"),
    ],
)
def test_help_with_one_part_shows_its_options(shown_help, line, heading, option):
    shown = shown_help(line)
    assert heading in shown
    assert option in shown.partition(heading)[2]
    assert "learning rate (from the published settings, else required)" in shown


def test_help_shows_the_defaults_that_the_parts_decide_and_where_they_come_from(shown_help):
    assert "epochs per task [1, protocol online]" in shown_help("--model er_ace")
    assert "learning rate (from the published settings" in shown_help("--model er_ace --load_best_args")
    shown = shown_help("--model er_ace --dataset seq-cifar10")
    assert "learning rate [0.03, published]" in shown
    assert "published: Lyu et al." in shown
    assert "epochs per task [50, published setting]" in shown_help(
        "--model er_ace --dataset seq-cifar10 --load_best_args"
    )
    assert "epochs per task [7, typed]" in shown_help("--model er_ace --epochs 7 --misspelled 1")
    assert "is decayed [none, protocol online]" in shown


@pytest.mark.parametrize(("variable", "typed", "folder"), [("", None, "data"), ("x", None, "x"), ("x", "y", "y")])
def test_an_empty_variable_names_no_data_root(monkeypatch, variable, typed, folder):
    monkeypatch.setenv("CL_DATA_ROOT", variable)
    assert data_root(typed) == Path(folder)
