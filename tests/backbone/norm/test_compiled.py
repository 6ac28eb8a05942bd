"""Kernels for the CPU are made once, and what stands in the way is said."""

import os
import stat
import sys

import pytest
import torch

from backbone.norm import _compiled, use_fused_kernels, uses_fused_kernels
from tests.backbone.norm.rig import make, maps, train_step, use_compiled_kernels


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, of which this process knows nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _compiled._library.cache_clear()
    yield tmp_path / "continual-norms" / "kernels"
    _compiled._library.cache_clear()


def compiler(folder, text):
    """A program in place of the compiler."""
    path = folder / "compiler"
    path.write_text(f"#!{sys.executable}\nimport sys\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_kernels_are_kept_and_not_made_again(cache, monkeypatch):
    use_compiled_kernels()
    (made,) = cache.iterdir()
    _compiled._library.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    use_fused_kernels(True, "cpu")
    assert uses_fused_kernels("cpu")
    assert [*cache.iterdir()] == [made]


def test_damaged_kernels_are_made_anew(cache, tmp_path, monkeypatch):
    use_compiled_kernels()
    (made,) = cache.iterdir()
    damaged = tmp_path / "other" / made.relative_to(tmp_path)  # what is loaded once is not read again from its path
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no library")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    _compiled._library.cache_clear()
    use_fused_kernels(True, "cpu")
    assert damaged.stat().st_size == made.stat().st_size


def test_another_type_of_maps_has_kernels_of_its_own(cache):
    use_compiled_kernels()
    train_step(make("BN"), maps(dtype=torch.bfloat16).requires_grad_(), None)
    assert len([*cache.iterdir()]) == 2


@pytest.mark.usefixtures("cache")
def test_a_compiler_that_is_not_there(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(FileNotFoundError, match="no-such-compiler"):
        use_fused_kernels(True, "cpu")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match=r"there is no C\+\+ compiler \(c\+\+, g\+\+, clang\+\+; \$CXX names"):
        use_fused_kernels(True, "cpu")
    assert not uses_fused_kernels("cpu")


def test_a_compiler_that_fails_leaves_nothing(cache, tmp_path, monkeypatch):
    fails = "sys.exit('In file included from somewhere:\\nkernels.cpp:3: fatal error: cmath: No such file')"
    monkeypatch.setenv("CXX", compiler(tmp_path, fails))
    with pytest.raises(OSError, match=r"fails: kernels.cpp:3: fatal error: cmath: No such file"):
        use_fused_kernels(True, "cpu")
    assert not [*cache.iterdir()]


def test_no_home_to_keep_them_in(cache, monkeypatch):
    def homeless():
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", homeless)
    with pytest.raises(OSError, match="set XDG_CACHE_HOME"):
        use_fused_kernels(True, "cpu")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.usefixtures("cache")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        use_fused_kernels(True, "cpu")
    tmp_path.chmod(0o700)
