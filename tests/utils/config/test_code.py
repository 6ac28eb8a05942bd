import json
import shutil
import subprocess
import sys

import pytest

from utils.config.code import RELEASED_PATH, code_digest, current_digests, unreleased_code
from utils.config.registry import METHODS, NORMS, ROOT

LAYER = '''"""A layer."""

from backbone.norm.bn import BN
from utils.config.registry import NORMS


@NORMS.register()
class Shifted(BN):
    """Batch normalization and a number."""

    SHIFT = 1.0

    def forward(self, x):
        return super().forward(x) + self.SHIFT
'''
RUN = "--model er --dataset seq-digits --buffer_size 20 --lr 0.1"


def test_the_suites_own_parts_are_as_released():
    """After a change of a part: python -m utils.config.code, and RESULTS_VERSION if the change moves any number."""
    assert json.loads(RELEASED_PATH.read_text()) == current_digests()


def test_parts_as_released_add_nothing_to_an_identity():
    assert unreleased_code((NORMS.get("TBBN"), METHODS.get("er"))) == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [("    SHIFT", "    # a comment\n\n    SHIFT"), ('"""A layer."""', '"""Another text."""'), ("1.0", " 1.00 ")],
    ids=["comment", "docstring", "spelling"],
)
def test_what_changes_nothing_changes_no_digest(old, new):
    assert code_digest(LAYER.replace(old, new)) == code_digest(LAYER)


@pytest.mark.parametrize(("old", "new"), [("1.0", "2.0"), ("+ self", "- self")])
def test_what_changes_something_changes_the_digest(old, new):
    assert code_digest(LAYER.replace(old, new)) != code_digest(LAYER)


def test_the_digest_is_that_of_every_version_of_python():
    text = """def f(x: int) -> str:\n    return f"{x:02}:{x // 60 % 60:02}" + f"{x!r}{f'{x}'}"\n"""
    assert code_digest(text)[:16] == "09375bd5c1c9fdf4"


DRIVER = """
import json, multiprocessing, pathlib, sys
import torch, models.er  # once; what the tests edit is imported by the children alone

def identity(words):
    from utils.config.configuration import configure
    return configure(words).identity("")

found = []
for path, text, words in json.load(sys.stdin):
    pathlib.Path(path).write_text(text)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found.append(pool.apply(identity, [words]))
json.dump(found, sys.stdout)
"""


@pytest.fixture
def copied(tmp_path):
    """The repository in another folder; gives the identities there of runs, each after a file was written."""
    for name in ("backbone", "datasets", "models", "utils"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    def identities(*steps):
        given = json.dumps([(str(file), text, [*RUN.split(), *words]) for file, text, words in steps])
        command = [sys.executable, "-c", DRIVER]
        return json.loads(
            subprocess.run(command, input=given, cwd=tmp_path, capture_output=True, check=True, text=True).stdout
        )

    return tmp_path, identities


def test_an_added_or_edited_part_is_another_run(copied):
    root, identities = copied
    added, own = root / "backbone" / "norm" / "shifted.py", root / "backbone" / "norm" / "bn.py"
    texts = (LAYER, f"# edited\n{LAYER}", LAYER.replace("1.0", "2.0"))
    released = own.read_text()
    found = identities(
        *((added, text, ["--nl", "Shifted"]) for text in texts),
        *((own, text, ["--nl", "BN"]) for text in (released, f"{released}\nEDITED = True\n")),
    )
    assert found[0] == found[1] != found[2]
    assert found[3] != found[4]


def test_a_plugin_counts_only_in_runs_that_use_a_part_of_it(copied):
    root, identities = copied
    file, text = root / "plugin.py", LAYER.replace("register()", "register('Shifted')")
    plugin = ["--plugin", str(file)]
    without, beside, used, edited = identities(
        (file, text, ["--nl", "BN"]),
        (file, text, ["--nl", "BN", *plugin]),
        (file, text, ["--nl", "Shifted", *plugin]),
        (file, text.replace("1.0", "2.0"), ["--nl", "Shifted", *plugin]),
    )
    assert without == beside
    assert used != edited
