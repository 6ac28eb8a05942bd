import re
import subprocess
import sys

import numpy as np
import pytest

from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS, ROOT, STREAMS, load_plugins
from utils.errors import UserError
from utils.main import main

REGISTRIES = {registry.kind: registry for registry in (METHODS, DATASETS, STREAMS, NORMS, BACKBONES)}
PARTS = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]


def test_the_parts_of_the_suite_are_known():
    assert NORMS.names() == ["AdaB2N", "BN", "BRN", "CN", "DyT", "FRN", "GN", "IN", "LN", "SN", "TBBN"]
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
    assert NORMS.known_name(spelling) == "AdaB2N"


def test_dashes_and_underscores_are_one():
    assert DATASETS.known_name("seq_cifar10") == "seq-cifar10"
    assert METHODS.known_name("er-ace") == "er_ace"


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
        load_plugins([str(file)])
        assert METHODS.get("plugged").name == "plugged"
        assert METHODS.get("sgd").name == "sgd"
        load_plugins([str(file)])
    finally:
        METHODS._parts.pop("plugged", None)


NORM_WITHOUT_AFFINE = """
from backbone.norm import NORMS, Norm

@NORMS.register()
class Fixed(Norm):
    def __init__(self, num_features, *, spatial_size=None):
        super().__init__(num_features, spatial_size=spatial_size)
"""


METHOD = """
from models.base import Method
from utils.config.registry import METHODS

@METHODS.register("broken")
class Broken(Method):
    pass
"""
DATASET = """
from datasets.arrays import Dataset
from datasets.layouts.four_arrays import FourArrays
from utils.config.registry import DATASETS

@DATASETS.register("broken")
class Broken(Dataset):
    num_tasks = 2
    num_classes = 4
    image_size = 16
    folder = "flowers"
    layouts = (FourArrays(),)
"""
BACKBONE = """
from torch import nn
from utils.config.registry import BACKBONES

@BACKBONES.register("broken")
class Broken(nn.Module):
    options = ()

    def __init__(self, norm, *, image_size):
        super().__init__()
"""


def without(content, line):
    assert content.count(f"    {line}\n") == 1
    return content.replace(f"    {line}\n", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (METHOD, "class Broken does not define `observe`, which a method needs"),
        (METHOD.replace("(Method)", ""), "Broken: a method is a class derived from models.base.Method"),
        (without(DATASET, "num_tasks = 2"), "class Broken does not define `num_tasks`, which a dataset needs"),
        (without(DATASET, "num_classes = 4"), "class Broken does not define `num_classes`, which a dataset needs"),
        (without(DATASET, "image_size = 16"), "class Broken does not define `image_size`, which a dataset needs"),
        (without(DATASET, 'folder = "flowers"'), "class Broken does not define `folder`, which a dataset needs"),
        (
            without(DATASET, "layouts = (FourArrays(),)"),
            "class Broken does not define `layouts`, which a dataset needs",
        ),
        (DATASET.replace("(Dataset)", ""), "Broken: a dataset is a class derived from datasets.arrays.Dataset"),
        (without(BACKBONE, "options = ()"), "Broken: a backbone is a class that defines `options`"),
        (BACKBONE.replace(", *, image_size", ""), "class Broken: got an unexpected keyword argument 'image_size'"),
        (BACKBONE.replace("norm, ", "norm, depth, "), "class Broken: missing a required argument: 'depth'"),
        (None, "no such file"),
        ("1 / 0", "ZeroDivisionError"),
        (NORM_WITHOUT_AFFINE, "Fixed: its constructor takes no 'affine'"),
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("raise SystemExit(0)", "SystemExit: 0"),  # else the run would seem complete
        (METHOD.replace('("broken")', ""), "Broken: a method is registered by `register()`"),
    ],
)
def test_plugin_that_cannot_be_loaded_is_named(tmp_path, content, message):
    file = tmp_path / "broken.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=re.escape(message)):
        load_plugins([str(file)])


@pytest.mark.parametrize(
    ("plugin", "words", "message"),
    [
        (
            DATASET,
            "--model er --dataset broken --buffer_size 20 --lr 0.1",
            "class Broken does not define `class_names`",
        ),
        (
            f"{DATASET}    class_names, mean, std = ('aster',), 3 * (0.5,), 3 * (0.5,)\n",
            "--model er --dataset broken --buffer_size 20 --lr 0.1",
            "class Broken: `class_names` has 1 names, but `num_classes` is 4",
        ),
        (
            f"{DATASET}    class_names, mean, std = 'abcd', 3 * (0.5,), 3 * (0.5,)\n"
            "    transforms = {'online': {'crop_pading': 2, 'flip': True}}\n",
            "--model er --dataset broken --buffer_size 20 --lr 0.1 --nf 8",
            "class Broken, its transforms for 'online': Transform.__init__() got an unexpected keyword argument 'crop",
        ),
        (BACKBONE, "--preset demo --backbone broken", "its constructor does not set `num_features`"),
        (
            BACKBONE.replace("options = ()", "options = (Option('lr', float, 0.5, 'a rate'),)")
            .replace("*, image_size", "*, image_size, lr")
            .replace("from torch import nn", "from torch import nn\nfrom utils.config.options import Option"),
            "--preset demo --backbone broken --lr 0.2",
            "backbone broken declares an option `lr`, but --lr is one already, under training: give it another name",
        ),
        (
            BACKBONE.replace("options = ()", "options = (Option('buffer_size', int, 5, 'a size'),)")
            .replace("*, image_size", "*, image_size, buffer_size")
            .replace("from torch import nn", "from torch import nn\nfrom utils.config.options import Option"),
            "--preset demo --backbone broken --model er",
            "backbone broken declares an option `buffer_size`, but --buffer_size is one already, under memory",
        ),
        (
            BACKBONE,
            "--model podnet --dataset seq-digits --backbone broken",
            "has no `forward_maps`, which --model podnet",
        ),
        (
            BACKBONE,
            "--model lucir --dataset seq-digits --backbone broken",
            "has no `drop_last_relu`, which --model lucir",
        ),
    ],
)
def test_what_a_part_lacks_in_a_run_is_one_line(tmp_path, capsys, monkeypatch, plugin, words, message):
    for registry in (DATASETS, BACKBONES):
        all_parts = {name: registry.get(name) for name in registry.names()}  # imported before: it registers only once
        monkeypatch.setattr(registry, "_parts", all_parts)  # the name is taken in this test alone
    (tmp_path / "flowers").mkdir()
    for split in ("train", "test"):
        np.save(tmp_path / "flowers" / f"{split}_x.npy", np.zeros((4, 16, 16, 3), np.uint8))
        np.save(tmp_path / "flowers" / f"{split}_y.npy", np.arange(4))
    file = tmp_path / f"{abs(hash(words))}.py"
    file.write_text(plugin)
    places = ["--plugin", str(file), "--data_root", str(tmp_path), "--results_dir", str(tmp_path), "--nowand", "1"]
    assert main([*words.split(), *places]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_plugin_that_is_no_python_file_is_named(tmp_path):
    file = tmp_path / "plugin.txt"
    file.write_text("")
    with pytest.raises(UserError, match=r"give a Python file, whose name ends in \.py"):
        load_plugins([str(file)])
