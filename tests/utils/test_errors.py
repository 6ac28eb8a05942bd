"""What messages say about a name that is not known."""

import pytest

from utils.errors import did_you_mean


@pytest.mark.parametrize(
    ("name", "form", "hint"),
    [
        ("er_acee", "'{}'", " Did you mean 'er_ace'?"),
        ("adab3n", "--{}", " Did you mean --AdaB2N?"),
        ("nothing-like-it", "'{}'", ""),
    ],
)
def test_the_closest_known_name_is_suggested_as_it_is_typed(name, form, hint):
    assert did_you_mean(name, ["er", "er_ace", "AdaB2N"], form) == hint
