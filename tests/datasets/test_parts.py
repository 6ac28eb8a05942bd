"""What holds for every dataset of the registry, and for the order in which layouts are looked for."""

import numpy as np
import pytest

from datasets.arrays import Arrays, Dataset
from datasets.layouts.official import OfficialCifar
from tests.datasets.small import (
    TEN_FILES,
    small_content,
    small_dataset,
    write_four_arrays,
    write_image_folder,
    write_ten_format,
)
from utils.config.registry import BACKBONES, DATASETS
from utils.data.augment import Transform
from utils.data.class_order import class_order
from utils.errors import UserError

NAMES = DATASETS.names()
STORED = [name for name in NAMES if DATASETS.get(name).layouts]


def written(name: str, data_root) -> Dataset:
    """The dataset, with a random training image and a test image per class in its four-array layout."""
    dataset = DATASETS.get(name)()
    num_classes, side = dataset.num_classes or 10, dataset.image_size or 20
    draws = np.random.default_rng(0)
    content = {}
    for split in ("train", "test"):
        content[f"{split}_x"] = draws.integers(0, 256, (num_classes, side, side, 3), dtype=np.uint8)
        content[f"{split}_y"] = np.arange(num_classes)
    if dataset.layouts:
        write_four_arrays(data_root / dataset.folder, content)
    return dataset


@pytest.mark.parametrize("name", NAMES)
def test_every_dataset_loads_and_says_what_it_is(name, tmp_path):
    dataset = written(name, tmp_path)
    arrays = dataset.load(tmp_path)
    assert isinstance(arrays, Arrays)
    assert arrays.num_classes % dataset.num_tasks == 0
    assert dataset.num_classes in (None, arrays.num_classes)
    assert len(set(arrays.class_names)) == arrays.num_classes
    assert dataset.describe(tmp_path).startswith(f"{name}: ")
    transform = dataset.transform("online", arrays)
    assert isinstance(transform, Transform)
    assert (transform.mean, transform.std) == (arrays.mean, arrays.std)
    assert isinstance(dataset.transform("offline", arrays), Transform)
    for rule in ("online", "offline"):
        order = class_order(dataset.class_orders.get(rule, rule), arrays.num_classes, seed=1)
        assert sorted(order) == list(range(arrays.num_classes))


@pytest.mark.parametrize("name", NAMES)
def test_options_have_defaults_that_their_own_type_gives_and_no_other_is_taken(name):
    part = DATASETS.get(name)
    for option in part.options:
        assert option.help
        assert option.default is None or option.type(str(option.default)) == option.default
    with pytest.raises(TypeError, match="colour"):
        part(colour="red")


@pytest.mark.parametrize("name", STORED)
def test_missing_data_says_what_to_put_where(name, tmp_path):
    dataset = DATASETS.get(name)()
    with pytest.raises(UserError) as caught:
        dataset.load(tmp_path)
    message = str(caught.value)
    assert message == dataset.describe(tmp_path)
    assert "\n" not in message
    assert f"{tmp_path / dataset.folder}/{{train,test}}_{{x,y}}.npy" in message
    assert "--data_root" in message
    assert (f"data --download {dataset.folder} --data_root" in message) == ("cifar" in name or "dissimilar" in name)


@pytest.mark.parametrize("name", [name for name in STORED if name != "seq-arrays"])
def test_only_known_protocols_have_transforms(name, tmp_path):
    dataset = written(name, tmp_path)
    with pytest.raises(UserError, match=f"--dataset {name} has no transforms for --protocol unheard; choose online"):
        dataset.transform("unheard", dataset.load(tmp_path))


def test_a_dataset_without_transforms_is_told_what_to_write(monkeypatch):
    dataset = DATASETS.get("seq-digits")
    monkeypatch.setattr(dataset, "transforms", {})
    with pytest.raises(UserError, match=r"for --protocol online; give its class some, such as `transforms = \{"):
        dataset().transform("online", None)


# Lyu et al., NeurIPS 2023: tasks, classes, side, border of the crop, mean, standard deviation, milestones, factor.
PUBLISHED = {
    "seq-cifar10": (5, 10, 32, 4, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2615), (), 1.0),
    "seq-cifar100": (10, 100, 32, 4, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), (35, 45), 0.1),
    "seq-miniimg": (
        *(20, 100, 84, 4),
        *((0.47313006, 0.44905752, 0.40378186), (0.27292014, 0.26559181, 0.27953038)),
        *((35, 60, 75), 0.2),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_constants_are_the_published_ones(name, tmp_path):
    num_tasks, num_classes, side, padding, mean, std, milestones, decay = PUBLISHED[name]
    dataset = written(name, tmp_path)
    assert (dataset.num_tasks, dataset.num_classes, dataset.image_size) == (num_tasks, num_classes, side)
    assert dataset.transform("online", dataset.load(tmp_path)) == Transform(padding, True, mean, std)
    values = dataset.protocol_values.get("online", {})
    assert (values.get("milestones", ()), values.get("lr_decay", 1.0)) == (milestones, decay)


# Cha et al., CVPR 2023, and for PODNet Douillard et al., ECCV 2020; CIFAR-10 as CIFAR-100.
CIFAR_OFFLINE = ((0.5071, 0.4866, 0.4409), (0.2009, 0.1984, 0.2023))
CIFAR_PODNET = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OFFLINE = {
    ("seq-cifar10", "offline"): Transform(4, True, *CIFAR_OFFLINE, resized_crop=True),
    ("seq-cifar100", "offline"): Transform(4, True, *CIFAR_OFFLINE, resized_crop=True),
    ("seq-cifar10", "podnet"): Transform(4, True, *CIFAR_PODNET, brightness=63 / 255),
    ("seq-cifar100", "podnet"): Transform(4, True, *CIFAR_PODNET, brightness=63 / 255),
    ("seq-imagenet100", "offline"): Transform(0, True, *IMAGENET, resized_crop=True, test_side=224),
    ("seq-imagenet100", "podnet"): Transform(0, True, *IMAGENET, resized_crop=True, brightness=63 / 255, test_side=224),
    ("seq-dissimilar", "offline"): Transform(4, True, (0.5,) * 3, (1.0,) * 3, resized_crop=True),
    ("seq-digits", "offline"): Transform(2, False, (0.5,) * 3, (0.5,) * 3),
}


@pytest.mark.parametrize(("name", "which"), OFFLINE)
def test_offline_transforms_are_the_published_ones(name, which, tmp_path):
    dataset = written(name, tmp_path)
    assert dataset.transform(which, dataset.load(tmp_path)) == OFFLINE[name, which]


@pytest.mark.parametrize(
    ("name", "schedule"),
    {
        "seq-cifar10": (160, (80, 120)),
        "seq-cifar100": (160, (80, 120)),
        "seq-imagenet100": (100, (40, 80)),
        "seq-dissimilar": (100, (40, 80)),
    }.items(),
)
def test_offline_schedules_are_the_published_ones(name, schedule):
    values = DATASETS.get(name).protocol_values["offline"]
    assert (values["epochs"], values["milestones"], values["lr_decay"]) == (*schedule, 0.1)


@pytest.mark.parametrize("name", NAMES)
def test_default_backbones_exist_and_milestones_lie_within_the_epochs(name):
    for values in DATASETS.get(name).protocol_values.values():
        assert values.get("backbone", "resnet18") in BACKBONES.names()
        assert max(values.get("milestones", (0,))) < values.get("epochs", 1000)


@pytest.mark.parametrize("name", ["seq-cifar10", "seq-cifar100"])
def test_crop_of_cifar_can_be_chosen_offline_and_nowhere_else(name, tmp_path):
    arrays = written(name, tmp_path).load(tmp_path)
    shifted, resized = (DATASETS.get(name)(cifar_crop=crop) for crop in ("shift", "resized"))
    assert shifted.transform("offline", arrays) == Transform(4, True, *CIFAR_OFFLINE)
    assert resized.transform("offline", arrays) == OFFLINE[name, "offline"]
    for which in ("online", "podnet"):
        with pytest.raises(UserError, match="--cifar_crop"):
            shifted.transform(which, arrays)


def test_dissimilar_tasks_stay_whole_and_in_order():
    orders = DATASETS.get("seq-dissimilar").class_orders
    assert orders["online"] == orders["offline"] == "identity"


def test_class_names_of_cifar_are_in_official_order():
    ten, hundred = (DATASETS.get(f"seq-cifar{number}").class_names for number in (10, 100))
    assert (len(ten), len(hundred)) == (10, 100)
    assert list(ten) == sorted(ten)  # the official lists are alphabetical
    assert list(hundred) == sorted(hundred)
    assert (ten[3], hundred[26], hundred[99]) == ("cat", "crab", "worm")


def test_first_layout_found_is_read(tmp_path):
    contents = [small_content(seed) for seed in range(3)]
    write_image_folder(tmp_path / "small", contents[2])
    place = tmp_path / "small" / "cifar-10-batches-py"
    dataset = small_dataset(OfficialCifar(place.name, TEN_FILES, write_ten_format(place, contents[1])))
    assert "official files" in dataset.describe(tmp_path)
    np.testing.assert_array_equal(dataset.load(tmp_path).train_x, contents[1]["train_x"])
    write_four_arrays(tmp_path / "small", contents[0])
    assert "four arrays" in dataset.describe(tmp_path)
    np.testing.assert_array_equal(dataset.load(tmp_path).train_x, contents[0]["train_x"])
    (tmp_path / "small" / "test_y.npy").unlink()
    with pytest.raises(UserError, match=r"lacks test_y\.npy"):  # half of a layout hides no other one silently
        dataset.load(tmp_path)


def test_layouts_of_the_same_images_have_one_fingerprint(tmp_path):
    content = small_content()
    write_four_arrays(tmp_path / "a" / "small", content)
    place = tmp_path / "b" / "small" / "cifar-10-batches-py"
    official = OfficialCifar(place.name, TEN_FILES, write_ten_format(place, content))
    write_image_folder(tmp_path / "c" / "small", content)
    digests = {small_dataset(official).load(tmp_path / root).fingerprint() for root in "abc"}
    assert len(digests) == 1


@pytest.mark.parametrize("name", [name for name in STORED if not DATASETS.get(name).has_source()])
def test_what_has_no_official_source_says_what_to_put_where(name, tmp_path):
    with pytest.raises(UserError, match=f"^{name} has no official source to download: provide "):
        DATASETS.get(name)().download(tmp_path)


def test_data_that_are_there_in_another_way_are_not_fetched(tmp_path):
    written("seq-cifar10", tmp_path).download(tmp_path)
    assert not (tmp_path / "cifar10" / "cifar-10-batches-py").exists()
