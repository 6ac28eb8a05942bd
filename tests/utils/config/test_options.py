import pytest

from utils.config.options import SHARED_OPTIONS, Condition, Option, above, changed, chosen, role_of
from utils.config.parts import options_of
from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS, STREAMS

REGISTRIES = {"method": METHODS, "dataset": DATASETS, "stream": STREAMS, "norm": NORMS, "backbone": BACKBONES}
PARTS = [
    pytest.param(kind, registry.get(name), id=name)
    for kind, registry in REGISTRIES.items()
    for name in registry.names()
]
EVERY = {option.name for option in SHARED_OPTIONS} | {
    option.name for part in PARTS for option in options_of(part.values[1])
}


def test_every_shared_option_stands_under_a_heading():
    assert all(option.group for option in SHARED_OPTIONS)


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_conditions_are_on_what_there_is(kind, part):
    """Options of the part itself or of every run, and attributes that some parts have."""
    for option in options_of(part):
        for name in (name for condition in option.active_when for name in condition.of):
            holder, dot, attribute = name.partition(".")
            if dot:
                registry = REGISTRIES[holder]
                assert any(hasattr(registry.get(each), attribute) for each in registry.names())
            else:
                assert name in EVERY | {"transforms", "num_tasks"}


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_what_gives_no_default_says_so(kind, part):
    for option in options_of(part):
        assert option.default is not None or option.source or option.required
        assert option.name not in {shared.name for shared in SHARED_OPTIONS}


def test_an_option_says_why_it_changes_nothing():
    option = Option("margin", float, 0.5, "", active_when=(chosen("ranking", True), above("weight", 0)), min_tasks=2)
    assert option.inactive_because({"ranking": True, "weight": 1.0, "n_tasks": 2}) == ""
    assert option.inactive_because({"ranking": False, "weight": 0.0}) == "it belongs to --ranking 1"
    assert option.inactive_because({"ranking": True, "weight": 0.0}) == "it needs --weight above 0"
    assert option.inactive_because({"n_tasks": 1}) == "it needs at least 2 tasks (--n_tasks)"
    assert option.inactive_because({"num_tasks": 1}) == "it needs at least 2 tasks"


def test_what_a_record_lacks_makes_no_option_inactive():
    assert Option("margin", float, 0.5, "", active_when=(above("weight", 0),)).inactive_because({}) == ""


def test_words_of_a_condition_tell_the_values():
    condition = Condition(("epochs", "name"), lambda epochs, name: False, "{1} in --epochs {0}")
    assert condition.missing({"epochs": 3, "name": "x"}) == "x in --epochs 3"


def test_fields_of_some_options_are_changed():
    first, second = changed((Option("a", int, 1, ""), Option("b", int, 2, "")), b={"min_tasks": 3})
    assert (first.min_tasks, second.min_tasks) == (1, 3)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model", "part"),
        ("eval_every", "measurement"),
        ("notes", "runtime"),
        ("load_best_args", "shorthand"),
        ("nowand", "runtime"),
        ("lr", "result"),
        ("of_a_plug_in_that_is_not_loaded", "result"),
    ],
)
def test_what_a_value_is_to_its_run(name, role):
    assert role_of(name) == role
