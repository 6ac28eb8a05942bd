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


@pytest.fixture
def copied(tmp_path):
    """The repository in another folder; gives what identity a run of a layer has there."""
    for name in ("backbone", "datasets", "models", "utils"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    def identity(*words):
        script = (
            "import sys; from utils.config.configuration import configure as c; print(c(sys.argv[1:]).identity(''))"
        )
        command = [sys.executable, "-c", script, *RUN.split(), *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    return tmp_path, identity


def test_an_added_or_edited_part_is_another_run(copied):
    root, identity = copied
    file = root / "backbone" / "norm" / "shifted.py"
    found = []
    for text in (LAYER, f"# edited\n{LAYER}", LAYER.replace("1.0", "2.0")):
        file.write_text(text)
        found.append(identity("--nl", "Shifted"))
    assert found[0] == found[1] != found[2]
    own = root / "backbone" / "norm" / "bn.py"
    before = identity("--nl", "BN")
    own.write_text(own.read_text() + "\nEDITED = True\n")
    assert identity("--nl", "BN") != before


def test_a_plugin_counts_only_in_runs_that_use_a_part_of_it(copied):
    root, identity = copied
    file = root / "plugin.py"
    file.write_text(LAYER.replace("register()", "register('Shifted')"))
    assert identity("--nl", "BN", "--plugin", str(file)) == identity("--nl", "BN")
    used = identity("--nl", "Shifted", "--plugin", str(file))
    file.write_text(file.read_text().replace("1.0", "2.0"))
    assert identity("--nl", "Shifted", "--plugin", str(file)) != used
