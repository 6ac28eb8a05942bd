"""Kernels for the CPU are made once, and what stands in the way is said."""

import copy
import os
import re
import stat
import sys

import pytest
import torch

from backbone.norm import _compiled, _fused, maker_of_fused_kernels, use_fused_kernels, uses_fused_kernels
from tests.backbone.norm.rig import context, make, maps, train_step, use_compiled_kernels


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, of which this process knows nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for each in (_compiled._library, _compiled._is_there):
        each.cache_clear()
    yield tmp_path / "continual-norms" / "kernels"
    for each in (_compiled._library, _compiled._is_there):
        each.cache_clear()


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


def test_kernels_know_who_made_them(cache):
    use_compiled_kernels()
    assert re.fullmatch(r"(GCC|.*Clang).* \d+\.\d+.*", maker_of_fused_kernels("cpu"))
    assert maker_of_fused_kernels("cuda") is None
    use_fused_kernels(False)
    assert maker_of_fused_kernels("cpu") is None


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


def test_what_the_compiler_is_called_may_have_words_of_its_own(cache, tmp_path, monkeypatch):
    says = "print(sys.argv[1:3], file=sys.stderr); sys.exit(3)"
    monkeypatch.setenv("CXX", f"{compiler(tmp_path, says)} -O2 --fast")
    with pytest.raises(OSError, match=r"compiler -O2 --fast fails: \['-O2', '--fast'\]"):
        use_fused_kernels(True, "cpu")
    monkeypatch.setenv("CXX", compiler(tmp_path, "sys.exit(3)"))
    with pytest.raises(OSError, match="compiler fails: exit code 3"):
        use_fused_kernels(True, "cpu")
    monkeypatch.setattr(_compiled, "_MOST_SECONDS", 0.3)
    monkeypatch.setenv("CXX", compiler(tmp_path, "import time; time.sleep(60)"))
    with pytest.raises(OSError, match=r"takes more than 0\.3 s"):
        use_fused_kernels(True, "cpu")
    assert not [*cache.iterdir()]


@pytest.mark.usefixtures("cache")
def test_a_compiler_that_is_gone_leaves_other_maps_to_the_layers_own_operations(monkeypatch):
    use_compiled_kernels()
    layer, x = make("BN"), maps(dtype=torch.bfloat16)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(UserWarning, match="train without fused kernels on such maps: .*no-such-compiler"):
        assert not _fused.takes(layer, x, None, (len(x),))
    assert _fused.takes(layer, maps(), None, (len(x),))
    with pytest.raises(FileNotFoundError):
        use_fused_kernels(True, "cpu", torch.bfloat16)
    assert not uses_fused_kernels("cpu")


class Wrapped(torch.Tensor):
    """Of which nothing is known."""


def changed(change):
    layer = make("BN")
    change(layer)
    return layer


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (make("BN").to("meta"), maps()),
        (changed(lambda layer: setattr(layer, "weight", torch.nn.Parameter(torch.ones(4)))), maps()),
        (changed(lambda layer: setattr(layer, "bias", None)), maps()),
        (changed(lambda layer: layer.double()), maps()),
        (make("BN"), maps().as_subclass(Wrapped)),
        (make("BN"), torch._neg_view(maps())),
    ],
    ids=("another device", "another shape", "no shift", "another type", "another kind of tensor", "negated memory"),
)
def test_what_has_not_the_memory_that_kernels_read_is_not_taken(layer, x):
    use_compiled_kernels()
    assert not _fused.takes(layer, x, None, (len(x),))
    assert _fused.takes(make("BN"), maps(), None, (len(x),))


def test_a_gradient_that_says_it_is_negated_is():
    layer, x = make("BN"), maps().requires_grad_()
    gradient = maps(seed=5)
    use_compiled_kernels()
    (expected,) = torch.autograd.grad(layer(x), x, -gradient)
    (given,) = torch.autograd.grad(layer(x), x, torch._neg_view(gradient))
    assert torch.equal(expected, given)


def test_weights_of_tasks_in_another_type_are_numbers_too():
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        layer, x = make("AdaB2N"), maps()
        layer.task_weight.data = layer.task_weight.data.bfloat16().to(dtype)
        use_compiled_kernels()
        found.append(train_step(layer, x.requires_grad_(), context())[0])
    torch.testing.assert_close(*found, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_means_far_from_zero_cost_no_digits(layout):
    x = (torch.randn(3000, 8, 1, 1, generator=torch.Generator().manual_seed(0)) + 30).contiguous(memory_format=layout)
    gradient, layer = torch.randn_like(x), make("BN")
    exact = copy.deepcopy(layer).double()
    use_compiled_kernels()
    found = []
    for each, dtype in ((exact, torch.float64), (layer, torch.float32)):
        leaf = x.to(dtype).requires_grad_()
        found += torch.autograd.grad(each(leaf), leaf, gradient.to(dtype))
    error = (found[1] - found[0]).norm() / found[0].norm()
    assert error < 2e-6
