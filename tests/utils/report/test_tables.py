"""The whole path from stored records to the bytes of the tables."""

import shutil
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.report import write_report

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def results(tmp_path):
    shutil.copytree(GOLDEN / "records", tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.parametrize("ending", ["md", "tex", "csv"])
def test_table_is_the_stored_one(results, ending):
    paths = {path.suffix[1:]: path for path in write_report(results, "study")}
    assert paths[ending].read_text() == (GOLDEN / f"table.{ending}").read_text()


def test_writing_again_changes_nothing(results):
    first = [path.read_bytes() for path in write_report(results, "study")]
    assert [path.read_bytes() for path in write_report(results, "study")] == first


def test_empty_group_gives_an_empty_table(tmp_path):
    (tmp_path / "group").mkdir()
    markdown = write_report(tmp_path, "group")[0].read_text()
    assert markdown.startswith("| norm | settings |")


def test_missing_group_is_named(tmp_path):
    with pytest.raises(UserError, match="--group"):
        write_report(tmp_path, "none")
