import subprocess
import sys

import pytest

from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS, ROOT, load_plugin
from utils.errors import UserError

REGISTRIES = {registry.kind: registry for registry in (METHODS, DATASETS, NORMS, BACKBONES)}
PARTS = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]


def test_the_parts_of_the_suite_are_known():
    assert NORMS.names() == ["AdaB2N", "BN", "BRN", "CN", "GN", "IN", "LN", "SN", "TBBN"]
    assert {"sgd", "joint", "er", "er_ace", "der", "derpp"} <= set(METHODS.names())
    assert {"seq-digits", "seq-cifar10", "seq-cifar100", "seq-miniimg", "seq-arrays"} <= set(DATASETS.names())
    assert {"resnet18", "resnet32"} <= set(BACKBONES.names())


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_name_leads_to_its_part(kind, name):
    part = REGISTRIES[kind].get(name)
    assert part.name == name
    assert isinstance(part.options, tuple)


@pytest.mark.parametrize("spelling", ["AdaB2N", "adab2n", "AdaB²N", "ADAB²N"])
def test_spellings_of_one_name(spelling):
    assert NORMS.canonical(spelling) == "AdaB2N"


def test_dashes_and_underscores_are_one():
    assert DATASETS.canonical("seq_cifar10") == "seq-cifar10"
    assert METHODS.canonical("er-ace") == "er_ace"


def test_unknown_name_suggests_the_close_one():
    with pytest.raises(UserError, match=r"unknown method 'er_acee'\. Did you mean 'er_ace'\?"):
        METHODS.get("er_acee")


def test_names_are_known_without_torch():
    script = "import sys, utils.config.registry as r; r.NORMS.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_plugin_registers_under_its_own_name(tmp_path):
    file = tmp_path / "plugin.py"
    file.write_text(
        "from models.sgd import Sgd\nfrom utils.config.registry import METHODS\n\n"
        "@METHODS.register('plugged')\nclass Plugged(Sgd):\n    pass\n"
    )
    try:
        load_plugin(str(file))
        assert METHODS.get("plugged").name == "plugged"
        assert METHODS.get("sgd").name == "sgd"
        load_plugin(str(file))
    finally:
        METHODS._parts.pop("plugged", None)


NORM_WITHOUT_AFFINE = """
from backbone.norm import NORMS, Norm

@NORMS.register()
class Fixed(Norm):
    def __init__(self, num_features, *, spatial_size=None):
        super().__init__(num_features, spatial_size=spatial_size)
"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("1 / 0", "ZeroDivisionError"),
        (NORM_WITHOUT_AFFINE, "Fixed: its constructor takes no 'affine'"),
    ],
)
def test_plugin_that_cannot_be_loaded_is_named(tmp_path, content, message):
    file = tmp_path / "broken.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_plugin(str(file))


def test_plugin_that_is_no_python_file_is_named(tmp_path):
    file = tmp_path / "plugin.txt"
    file.write_text("")
    with pytest.raises(UserError, match=r"give a Python file, whose name ends in \.py"):
        load_plugin(str(file))
