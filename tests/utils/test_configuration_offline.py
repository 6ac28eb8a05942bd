"""The offline protocol's part of the configuration."""

import shlex

import pytest

from utils.configuration import configure
from utils.errors import UserError
from utils.registry import METHODS

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
        ("--batch_size 3", "--batch_size 3 leaves no row"),
        ("--epochs 10 --milestones 20", "--milestones 20 is never reached"),
        ("--ignore_other_metrics 0", "forward transfer"),
        ("--best_epoch val_loss --val_fraction 0", "--val_fraction"),
        ("--forward separate", "separate"),
        ("--minibatch_size 16", "uses --minibatch_size"),
    ],
)
def test_mistakes_name_what_to_change(method, words, message):
    with pytest.raises(UserError, match=message):
        config(f"--model {method} --dataset seq-cifar100 {words}")


@pytest.mark.parametrize("method", [name for name in OFFLINE if name != "icarl"])  # which runs in both protocols
def test_offline_methods_have_no_fixed_head(method):
    with pytest.raises(UserError, match="its own protocol is offline"):
        config(f"--model {method} --dataset seq-cifar100 --protocol online")


@pytest.mark.parametrize("method", ["er", "er_ace", "der", "derpp"])
def test_online_methods_have_no_head_that_grows(method):
    with pytest.raises(UserError, match=f"--model {method} has no growing .* its own protocol is online"):
        config(f"--model {method} --dataset seq-cifar100 --buffer_size 500 --protocol offline")
