"""The offline protocol's part of the configuration."""

import shlex

import pytest

from utils.config.configuration import configure
from utils.config.registry import METHODS
from utils.errors import UserError

OFFLINE = [name for name in METHODS.names() if METHODS.get(name).protocol == "offline"]


def config(line):
    return configure(shlex.split(line))


def test_published_defaults():
    resolved = config("--model ft --dataset seq-cifar100")
    expected = {"protocol": "offline", "backbone": "resnet32", "epochs": 160, "milestones": (80, 120), "lr_decay": 0.1}
    expected |= {"lr": 0.1, "optim_mom": 0.0, "optim_wd": 1e-4, "batch_size": 64, "buffer_size": 2000}
    expected |= {"val_fraction": 0.1, "best_epoch": "val_loss", "class_il_outputs": "seen", "forward": "joint"}
    expected |= {"exemplar_selection": "herding", "quota": "ceil", "reherd": True, "batch_ratio": 3}
    assert {name: resolved.values[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("epochs", "milestones"), [(160, (80, 120)), (80, (40, 60)), (5, (3, 4)), (1, (1,)), (320, (160, 240))]
)
def test_milestones_follow_the_epochs_in_proportion(epochs, milestones):
    assert config(f"--model ft --dataset seq-cifar100 --epochs {epochs}").milestones == milestones


def test_typed_milestones_stay_as_they_are():
    assert config("--model ft --dataset seq-cifar100 --epochs 10 --milestones 7").milestones == (7,)


def test_online_milestones_are_epochs_whatever_their_number():
    assert config("--model sgd --dataset seq-cifar100 --epochs 50").milestones == (35, 45)


def test_the_number_of_epochs_does_not_choose_the_protocol():
    assert config("--model sgd --dataset seq-cifar100 --epochs 160").protocol == "online"


@pytest.mark.parametrize(
    ("method", "protocol", "head"),
    [
        ("sgd", "online", "linear"),
        ("sgd", "offline", "growing"),
        ("joint", "offline", "growing"),
        ("ft", "offline", "growing"),
        ("lucir", "offline", "cosine"),
        ("icarl", "offline", "growing"),
        ("icarl", "online", "linear"),
    ],
)
def test_head_by_method_and_protocol(method, protocol, head):
    memory = "--buffer_size 500" if METHODS.get(method).uses_memory else ""
    line = f"--model {method} --dataset seq-cifar100 --protocol {protocol} --lr 0.1 {memory}"
    assert config(line).parts.head == head


def test_first_task_with_the_regularizer_makes_no_difference_from_the_second_on():
    lines = [f"--model ft --dataset seq-cifar100 --nl AdaB2N --ada_t0 {task}" for task in (0, 1, 2)]
    identities = [config(line).identity("data") for line in lines]
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.parametrize("method", OFFLINE)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--buffer_size 99", "--buffer_size 99 is less than one image for each of the 100 classes"),
        ("--buffer_size 0", "--buffer_size"),
        ("--epochs 10 --milestones 20", "--milestones( 20 is never reached| changes nothing)"),
        ("--ignore_other_metrics 0", "forward transfer"),
        ("--best_epoch val_loss --val_fraction 0", "give --val_fraction above 0 or --best_epoch last"),
        ("--forward separate", "separate"),
        ("--forward joint", "--forward changes nothing"),
        ("--minibatch_size 16", "uses --minibatch_size"),
    ],
)
def test_mistakes_name_what_to_change(method, words, message):
    with pytest.raises(UserError, match=message):
        config(f"--model {method} --dataset seq-cifar100 {words}")


@pytest.mark.parametrize("method", OFFLINE)
def test_a_batch_without_room_for_both_parts_is_refused_where_there_are_parts(method):
    line = f"--model {method} --dataset seq-cifar100 --batch_size 3"
    if method == "icarl":  # whose batches are shuffled unions
        assert config(line).batch_size == 3
        line += " --batching ratio"
    with pytest.raises(UserError, match="--batch_size 3 leaves one of the parts without a row"):
        config(line)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("--batch_size 10", "give --batch_size 8 or 12"),
        ("--batch_ratio 4 --batch_size 64", "give --batch_size 60 or 65"),
        ("--batch_ratio 2 --batch_size 5", "give --batch_size 3 or 6"),
    ],
)
def test_a_ratio_whose_parts_are_not_a_whole_batch_is_refused(words, advice):
    line = f"--model ft --dataset seq-cifar100 {words}"
    with pytest.raises(UserError, match=advice):
        config(line)
    size = words.split()[-1]
    config(f"--model eeil --batching union --eeil_second_stage balanced --dataset seq-cifar100 --batch_size {size}")
    for size in (int(word) for word in advice.split() if word.isdigit()):
        config(f"{line} --batch_size {size}")


def test_a_ratio_is_not_asked_of_a_single_task():
    assert config("--model ft --dataset seq-arrays --n_tasks 1 --batch_size 10").batch_size == 10


def test_the_only_epoch_is_the_last_and_the_best_one():
    def identity(method, words, choice):
        line = f"--model {method} --dataset seq-cifar100 --val_fraction 0.1 {words} --best_epoch {choice}"
        return config(line).identity("data")

    for method, words, is_one in (
        ("ft", "--epochs 1", True),
        ("ft", "--epochs 2", False),
        ("eeil", "--epochs 1 --second_epochs 1", True),
        ("eeil", "--epochs 1 --second_epochs 2", False),
    ):
        assert (identity(method, words, "last") == identity(method, words, "val_loss")) == is_one


def test_the_way_of_the_forward_stays_in_the_record():
    assert config("--model ft --dataset seq-cifar100").used()["forward"] == "joint"


@pytest.mark.parametrize("words", ["--batch_ratio 3", "--ratio_cycle reshuffle", "--current_pool union"])
def test_options_of_pairs_are_refused_where_rows_are_not_paired(words):
    for line in (
        "--model icarl",
        "--model ft --batching union",
        "--model eeil --batching union --eeil_second_stage balanced",
    ):
        with pytest.raises(UserError, match=f"{words.split()[0]} changes nothing .* --batching ratio"):
            config(f"{line} --dataset seq-cifar100 {words}")
    config(f"--model icarl --batching ratio --dataset seq-cifar100 {words}")


def test_pairs_of_the_second_stage_of_eeil_are_paired_whatever_the_main_stage_does():
    line = "--model eeil --dataset seq-cifar100 --batching union"
    assert config(f"{line} --batch_ratio 1").identity("data") != config(line).identity("data")
    with pytest.raises(UserError, match="--current_pool changes nothing"):
        config(f"{line} --current_pool task")


def test_unused_values_of_a_published_setting_do_not_enter_the_identity():
    used = config("--model podnet --dataset seq-cifar100 --batching union").used()
    assert not {"batch_ratio", "ratio_cycle"} & used.keys()


@pytest.mark.parametrize(
    ("method", "words", "num_tasks"),
    [
        ("ft", "--quota floor", 2),
        ("ft", "--batch_ratio 1", 2),
        ("ft", "--reherd 0", 3),
        ("icarl", "--reherd 0", 2),
        ("icarl", "--quota floor", 1),
        ("podnet", "--reherd 0", 2),
        ("podnet", "--second_lr 0.5", 2),
        ("afc", "--afc_lambda 3", 2),
        ("lwf", "--lwf_lambda 3", 2),
        ("lucir", "--lucir_margin 0.3", 2),
        ("lucir", "--lucir_relu final", 1),
        ("eeil", "--eeil_skip_newest_head 0", 2),
        ("ssil", "--ssil_distill all", 3),
        ("ft --nl AdaB2N", "--lambd 3", 2),
    ],
)
def test_options_that_wait_for_a_later_task_need_one(method, words, num_tasks):
    line = f"--model {method} --dataset seq-arrays {words} --n_tasks"
    config(f"{line} {num_tasks}")
    if num_tasks > 1:
        with pytest.raises(UserError, match=f"{words.split()[0]} changes nothing .* at least {num_tasks} tasks"):
            config(f"{line} {num_tasks - 1}")


def test_options_that_need_memory_rows_need_a_task_that_replays():
    line = "--dataset seq-arrays --buffer_size 9 --lr 0.1 --nl AdaB2N --lambd 3 --n_tasks 1"
    config(f"--model er {line}")
    with pytest.raises(UserError, match=r"--lambd changes nothing .* at least 2 tasks \(--n_tasks\)"):
        config(f"--model er_ace {line}")


@pytest.mark.parametrize("words", ["--minibatch_size 3", "--buffer_mode ring", "--forward joint"])
def test_options_of_replay_need_a_task_that_replays(words):
    line = "--dataset seq-arrays --buffer_size 9 --lr 0.1 --n_tasks 1"
    config(f"--model er {line} {words}")
    config(f"--model er_ace {line.replace('--n_tasks 1', '--n_tasks 2')} {words}")
    with pytest.raises(UserError, match=rf"{words.split()[0]} changes nothing .* at least 2 tasks \(--n_tasks\)"):
        config(f"--model er_ace {line} {words}")


def test_an_option_for_several_is_taken_if_one_of_them_changes_something():
    line = "--model er_ace --dataset seq-arrays --buffer_size 9 --lr 0.1 --n_tasks 1"
    assert config(f"{line} --bs 16").batch_size == 16
    assert config(f"{line} --bs 16").identity("data") == config(f"{line} --batch_size 16").identity("data")


def test_weights_of_absent_tasks_need_a_second_task():
    line = "--model er --dataset seq-arrays --buffer_size 9 --lr 0.1 --nl AdaB2N --renormalize_absent --n_tasks"
    config(f"{line} 2")
    with pytest.raises(UserError, match=r"--renormalize_absent changes nothing .* at least 2 tasks"):
        config(f"{line} 1")


@pytest.mark.parametrize("model", ["er --epochs", "podnet --second_epochs 1 --epochs"])
def test_a_cosine_that_is_an_epoch_late_needs_three(model):
    line = f"--dataset seq-arrays --buffer_size 9 --lr 0.1 --n_tasks 2 --lr_schedule epoch_cosine --model {model}"
    config(f"{line} 3")
    with pytest.raises(UserError, match=r"--lr_schedule changes nothing .* from the third epoch on"):
        config(f"{line} 2")


def test_a_cosine_that_is_an_epoch_late_takes_the_place_of_steps():
    line = "--model icarl --dataset seq-cifar100 --buffer_size 500 --lr 0.03 --epochs 2 --lr_schedule"
    late, steps = (config(f"{line} {schedule}").identity("data") for schedule in ("epoch_cosine", "step"))
    assert late != steps


def test_one_task_is_one_computation_whatever_waits_for_a_later_one():
    lines = [f"--model ft --dataset seq-arrays --n_tasks 1 --nl {norm}" for norm in ("BN", "TBBN")]
    assert all("quota" not in config(line).used() for line in lines)


def test_crop_of_cifar_is_one_run_by_default_and_typed():
    line = "--model ft --dataset seq-cifar100"
    identities = [
        config(f"{line} {words}").identity("data") for words in ("", "--cifar_crop resized", "--cifar_crop shift")
    ]
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.parametrize("crop", ["resized", "shift"])
@pytest.mark.parametrize("line", ["--model podnet", "--model sgd --lr 0.1"])
def test_crop_of_cifar_is_refused_where_other_transforms_are_used(line, crop):
    with pytest.raises(UserError, match=r"--cifar_crop changes nothing .* offline transforms"):
        config(f"{line} --dataset seq-cifar100 --cifar_crop {crop}")


@pytest.mark.parametrize(
    ("dataset", "order"),
    [("seq-cifar100", "seeded"), ("seq-dissimilar", "identity"), ("seq-imagenet100", "imagenet100")],
)
def test_the_order_of_the_protocol_is_one_run_by_default_and_typed(dataset, order):
    line = f"--model ft --dataset {dataset}"
    assert config(line).identity("data") == config(f"{line} --class_order {order}").identity("data")
    assert config(line).identity("data") != config(f"{line} --class_order icarl").identity("data")


def test_outputs_of_classes_not_seen_are_not_there_to_be_compared():
    line = "--dataset seq-cifar100 --class_il_outputs"
    assert config(f"--model ft {line} seen").identity("data") == config("--model ft --dataset seq-cifar100").identity(
        "data"
    )
    with pytest.raises(UserError, match="--class_il_outputs all changes nothing"):
        config(f"--model ft {line} all")
    assert config(f"--model sgd --lr 0.1 {line} all").class_il_outputs == "all"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--dataset seq-cifar100", 40),
        ("--dataset seq-cifar100 --epochs 16", 4),
        ("--dataset seq-cifar100 --epochs 16 --second_epochs 40", 40),
        ("--dataset seq-imagenet100", 40),
        ("--dataset seq-imagenet100 --epochs 10", 4),
        ("--dataset seq-digits", 3),
        ("--dataset seq-cifar100 --epochs 1", 1),
    ],
)
def test_second_stage_of_eeil_follows_the_epochs_in_proportion_unless_typed(line, expected):
    assert config(f"--model eeil {line}").second_epochs == expected


@pytest.mark.parametrize("dataset", ["seq-cifar10", "seq-cifar100", "seq-imagenet100", "seq-digits", "seq-arrays"])
def test_icarl_holds_nothing_out_as_no_loss_of_its_own_chooses_an_epoch(dataset):
    resolved = config(f"--model icarl --dataset {dataset}")
    assert (resolved.val_fraction, resolved.best_epoch) == (0.0, "last")
    assert resolved.origins["best_epoch"].startswith("published")


@pytest.mark.parametrize("method", [name for name in OFFLINE if name != "icarl"])  # which runs in both protocols
def test_offline_methods_have_no_fixed_head(method):
    with pytest.raises(UserError, match="its own protocol is offline"):
        config(f"--model {method} --dataset seq-cifar100 --protocol online")


@pytest.mark.parametrize("method", ["er", "er_ace", "der", "derpp"])
def test_online_methods_have_no_head_that_grows(method):
    with pytest.raises(UserError, match=f"--model {method} has no growing .* its own protocol is online"):
        config(f"--model {method} --dataset seq-cifar100 --buffer_size 500 --protocol offline")
