import re

import pytest

from models.base import REPLAY_OPTIONS
from models.der import ALPHA
from utils.config.command_line import make_parser
from utils.config.options import OF_GRIDS, SHARED_OPTIONS
from utils.config.parts import options_of
from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS, STREAMS
from utils.launch.cli import LAUNCH_OPTIONS

PARTS = [registry.get(name) for registry in (METHODS, DATASETS, STREAMS, NORMS, BACKBONES) for name in registry.names()]
OPTIONS = [option for part in PARTS for option in options_of(part)]


@pytest.mark.parametrize(
    "option", dict.fromkeys([*SHARED_OPTIONS, *LAUNCH_OPTIONS, *OPTIONS]), ids=lambda option: option.name
)
def test_every_option_says_what_it_is_and_its_default(option):
    """In brackets where it has one; else in words, in parentheses."""
    (action,) = make_parser([option], add_help=False)._actions
    if option.default is None or option.default == "":
        assert re.fullmatch(r"\w.*[^)] \(.+\)", action.help)
        assert ("required)" in action.help) == option.required
    else:
        shown = re.fullmatch(r"\w.* \[(?:.+, else )?(.+)\]", action.help)[1]
        assert type(option.default)(shown if not isinstance(option.default, bool) else int(shown)) == option.default


@pytest.mark.parametrize(
    "option", dict.fromkeys([*SHARED_OPTIONS, *LAUNCH_OPTIONS, *OPTIONS]), ids=lambda option: option.name
)
def test_help_names_what_an_option_takes(option):
    (action,) = make_parser([option], add_help=False)._actions
    assert action.metavar != "VALUE"


def test_a_value_that_must_be_given_is_named_as_such():
    shown = {action.dest: action.help for action in make_parser([*SHARED_OPTIONS, ALPHA, *REPLAY_OPTIONS])._actions}
    assert shown["buffer_size"].endswith("(required)")
    assert shown["lr"].endswith("(from the published settings, else required)")
    assert shown["alpha"].endswith("(from the published settings, else required)")


@pytest.mark.parametrize("words", ["--seeds 0 1", "--seeds 0 --seeds 1", "--seeds=0 --seeds 1"])
def test_an_option_of_many_words_takes_them_together_and_one_by_one(words):
    (seeds,) = (option for option in LAUNCH_OPTIONS if option.name == "seeds")
    assert make_parser([seeds]).parse_args(words.split()).seeds == [0, 1]
    assert make_parser([seeds]).parse_args([]).seeds is None
    assert not hasattr(make_parser([seeds], only_typed=True).parse_args([]), "seeds")


def test_one_run_knows_what_belongs_to_a_grid():
    """And what it takes in its place, where there is something."""
    of_one_run = {spelling for option in SHARED_OPTIONS for spelling in option.spellings}
    alone = {spelling for option in LAUNCH_OPTIONS for spelling in option.spellings if len(spelling) > 1} - of_one_run
    assert set(OF_GRIDS) == alone - {spelling for option in OPTIONS for spelling in option.spellings} | {"buffer_sizes"}
    assert {instead.removeprefix("--") for instead in OF_GRIDS.values() if instead} <= of_one_run | {"buffer_size"}
