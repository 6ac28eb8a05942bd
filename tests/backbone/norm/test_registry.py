import subprocess
import sys

import pytest

from backbone.norm import NORMS, Norm, NormError, build_norm
from backbone.norm.base import RunningNorm
from backbone.norm.registry import Registry, constructor_arguments, find_name, unknown
from utils.config.registry import ROOT


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("er_acee", ["er", "er_ace"], "unknown thing 'er_acee'. Did you mean 'er_ace'? Known: er, er_ace."),
        ("ADAB3N", ["BN", "AdaB2N"], "unknown thing 'ADAB3N'. Did you mean 'AdaB2N'? Known: BN, AdaB2N."),
        ("nothing-like-it", ["er", "er"], "unknown thing 'nothing-like-it'. Known: er."),
        ("x", [], "unknown thing 'x'. Known: none."),
    ],
)
def test_what_is_close_to_an_unknown_name_is_suggested_as_it_is_typed(name, known, message):
    assert unknown("thing", name, known) == message


@pytest.mark.parametrize(
    ("name", "found"), [("er-ace", "er_ace"), ("ADAB²N", "AdaB2N"), ("ada", "ada"), ("Ada", "Ada"), ("er", None)]
)
def test_a_name_is_found_however_it_is_spelled_and_first_as_it_is(name, found):
    assert find_name(name, iter(["er_ace", "AdaB2N", "ada", "Ada"])) == found


def test_an_option_is_suggested_among_too_many_to_be_told():
    message = "unknown option --epoch. Did you mean --epochs? See --help."
    assert unknown("option", "--epoch", ["--lr", "--epochs"], is_listed=False) == message


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "plain_name.py").write_text("@THINGS.register()\nclass RMSN:\n    pass\n")
    (tmp_path / "named.py").write_text('@THINGS.register("My-Thing")\n@other\nclass Named:\n    pass\n')
    (tmp_path / "two.py").write_text("@THINGS.register('A')\nclass X: ...\n\n\n@THINGS.register('B')\ndef y(): ...\n")
    (tmp_path / "helper.py").write_text("class NoPart:\n    pass\n")
    return tmp_path


@pytest.fixture
def added():
    """Names that a test registers, forgotten afterwards."""
    before = set(NORMS._parts)
    yield
    for name in set(NORMS._parts) - before:
        del NORMS._parts[name]


def test_names_are_as_written_where_a_part_is_registered(folder):
    by_class = Registry("thing", "things", folder, lambda file, part: part)
    assert by_class.names() == ["My-Thing", "RMSN", "A", "B"]
    by_file = Registry("thing", "things", folder, lambda file, part: file)
    assert by_file.names() == ["My-Thing", "plain_name", "A", "B"]
    assert by_file.known_name("PLAIN-NAME") == "plain_name"


def test_registering_a_taken_name_is_refused_whatever_its_case(folder):
    registry = Registry("thing", "things", folder, lambda file, part: part)
    registry.register("one")(type("One", (), {}))
    for name in ("one", "ONE", "rmsn"):
        with pytest.raises(ValueError, match="taken"):
            registry.register(name)(type("Other", (), {}))


@pytest.mark.parametrize(("name", "shown"), [(None, "RMSN"), ("rMSN-2", "rMSN-2")])
def test_a_layer_of_ones_own_is_shown_as_written(added, name, shown):
    @NORMS.register(name)
    class RMSN(Norm):
        def __init__(self, num_features, *, alpha=0.5, affine=True, **settings):
            super().__init__(num_features, **settings)
            self.alpha = alpha
            self.make_affine(affine, (num_features, 1, 1))

        def normalize(self, x):
            return self.shifted(self.scaled(self.alpha * x))

    assert shown in NORMS.names()
    assert NORMS.get(shown.upper()) is RMSN
    assert RMSN.name == shown
    assert build_norm(shown, 4, alpha=2.0, spatial_size=3).alpha == 2.0
    assert repr(build_norm(shown, 4)) == "RMSN(4, affine=True)"  # not every layer has an eps
    with pytest.raises(NormError, match=rf"{shown} has no option 'beta'; it has alpha, affine"):
        build_norm(shown, 4, beta=1)


def test_arguments_that_a_layer_hands_on_are_its_own():
    class Layer(RunningNorm):
        def __init__(self, num_features, *, gain=1.0, **settings):
            super().__init__(num_features, **settings)

    assert constructor_arguments(Layer) == ["num_features", "gain", "spatial_size", "affine", "eps"]


def test_a_layer_without_affine_is_refused_when_it_is_registered(added):
    class Fixed(Norm):
        def __init__(self, num_features, *, spatial_size=None):
            super().__init__(num_features, spatial_size=spatial_size)

    with pytest.raises(NormError, match=r"Fixed: its constructor takes no 'affine'; .*affine=True"):
        NORMS.register()(Fixed)


@pytest.mark.parametrize(("base", "method"), [(Norm, "normalize"), (RunningNorm, "normalize_batch")])
def test_a_layer_that_does_nothing_is_refused_when_it_is_registered(added, base, method):
    class Idle(base):
        def __init__(self, num_features, *, affine=True, spatial_size=None):
            super().__init__(num_features, spatial_size=spatial_size)

    with pytest.raises(NormError, match=f"Idle lacks the method `{method}`"):
        NORMS.register()(Idle)


def test_what_is_no_layer_is_refused_when_it_is_registered(added):
    with pytest.raises(NormError, match=r"Other: a norm layer is a class derived from backbone\.norm\.base\.Norm"):
        NORMS.register()(type("Other", (), {}))


def test_a_decorator_without_parentheses_is_refused():
    """It would take the class for a name, and register nothing."""
    with pytest.raises(NormError, match=r"^Other: a norm layer is registered by `register\(\)`, with parentheses"):
        NORMS.register(type("Other", (), {}))


def test_names_of_the_layers_are_known_without_torch():
    script = "import sys; from backbone.norm import NORMS; NORMS.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
