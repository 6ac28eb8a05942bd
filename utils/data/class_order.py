"""The order in which the classes of a dataset come."""

from functools import partial

import numpy as np

from utils.config.configuration import Configuration
from utils.config.registry import unknown
from utils.errors import UserError

# Class at each position. For CIFAR-100: Rebuffi et al., iCaRL, CVPR 2017. For ImageNet-100: Douillard et al., PODNet,
# ECCV 2020, over the first 100 classes of ILSVRC-2012.
_NAMED_ORDERS = {
    "icarl": """
        87 0 52 58 44 91 68 97 51 15 94 92 10 72 49 78 61 14 8 86 84 96 18 24 32 45 88 11 4 67 69 66 77 47 79 93 29 50
        57 83 17 81 41 12 37 59 25 20 80 73 1 28 6 46 62 82 53 9 31 75 38 63 33 74 27 22 36 3 16 21 60 19 70 90 89 43 5
        42 65 76 40 30 23 85 2 95 56 48 71 64 98 13 99 7 34 55 54 26 35 39
    """,
    "imagenet100": """
        68 56 78 8 23 84 90 65 74 76 40 89 3 92 55 9 26 80 43 38 58 70 77 1 85 19 17 50 28 53 13 81 45 82 6 59 83 16 15
        44 91 41 72 60 79 52 20 10 31 54 37 95 14 71 96 98 97 2 64 66 42 22 35 86 24 34 87 21 99 0 88 27 18 94 11 12 47
        25 30 46 62 69 36 61 7 63 75 5 32 4 51 48 73 93 39 67 29 49 57 33
    """,
}


def class_order_of(config: Configuration, num_classes: int) -> np.ndarray:
    """The label that each class gets in a run (`class_order`)."""
    rule = config.class_order
    if rule == "protocol":
        rule = config.parts.order_rule(config.protocol)
    return class_order(rule, num_classes, config.seed)


def class_order(rule: str, num_classes: int, seed: int) -> np.ndarray:
    """The label that each class gets; the labels of task t follow those of task t - 1.

    Args:
        rule: `identity`; `online`, which keeps the classes at seed 0 and permutes them at others (Lyu et al., NeurIPS
            2023); `offline` or `seeded`, which shuffles them (Masana et al., FACIL, 2020); `icarl` or `imagenet100`,
            fixed orders of 100 classes; or a list of the classes in their order, such as `3,1,0,2`.
        num_classes: K.
        seed: of the run.

    Returns:
        [K] int64, the label of class c at index c.

    Raises:
        UserError: an unknown rule, or a list that does not name each class once.
    """
    rules = {"identity": _identity, "online": _online, "offline": _offline, "seeded": _offline}
    rules |= {name: partial(_named, name) for name in _NAMED_ORDERS}
    if rule in rules:
        return rules[rule](num_classes, seed)
    try:
        listed = [int(part) for part in rule.split(",")]
    except ValueError:
        raise UserError(
            f"{unknown('--class_order', rule, ('protocol', *rules))} Or give a list of the classes, such as 3,1,0,2."
        ) from None
    return _labels_of(listed, num_classes, "--class_order")


def _identity(num_classes: int, seed: int) -> np.ndarray:
    return np.arange(num_classes)


def _online(num_classes: int, seed: int) -> np.ndarray:
    return np.random.default_rng(42 + seed).permutation(num_classes) if seed else np.arange(num_classes)


def _offline(num_classes: int, seed: int) -> np.ndarray:
    order = list(range(num_classes))
    np.random.RandomState(seed).shuffle(order)
    return np.argsort(order)


def _named(name: str, num_classes: int, seed: int) -> np.ndarray:
    if num_classes != 100:
        raise UserError(f"--class_order {name} is an order of 100 classes, but this dataset has {num_classes}")
    return _labels_of([int(number) for number in _NAMED_ORDERS[name].split()], num_classes, name)


def _labels_of(order: list[int], num_classes: int, where: str) -> np.ndarray:
    """Labels from the class at each position."""
    for number in order:
        if not 0 <= number < num_classes:
            raise UserError(f"{where} names class {number}; the classes are 0 to {num_classes - 1}")
        if order.count(number) > 1:
            raise UserError(f"{where} names class {number} more than once; name each of the {num_classes} classes once")
    missing = sorted(set(range(num_classes)) - set(order))
    if missing:
        raise UserError(f"{where} lacks class {missing[0]}; name each of the {num_classes} classes once")
    return np.argsort(order)
