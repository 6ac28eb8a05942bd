import re

import pytest

from utils.config.command_line import make_parser
from utils.config.options import SHARED_OPTIONS
from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS

PARTS = [registry.get(name) for registry in (METHODS, DATASETS, NORMS, BACKBONES) for name in registry.names()]
OPTIONS = [option for part in PARTS for option in (*part.options, *getattr(part, "regularizer_options", ()))]


@pytest.mark.parametrize("option", dict.fromkeys([*SHARED_OPTIONS, *OPTIONS]), ids=lambda option: option.name)
def test_every_option_says_what_it_is_and_its_default(option):
    """In brackets where it has one; else in words, in parentheses."""
    (action,) = make_parser([option])._actions
    if option.default is None or option.default == "":
        assert re.match(r"\w.*\(.+\)", action.help)
    else:
        _, shown = re.fullmatch(r"(\w.*) \[(.+)\]", action.help).groups()
        assert type(option.default)(shown if not isinstance(option.default, bool) else int(shown)) == option.default
