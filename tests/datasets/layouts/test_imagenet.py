import numpy as np
import pytest
from PIL import Image

from datasets.arrays import Dataset
from datasets.layouts.imagenet import DecodedArrays, ImageNetFolder
from utils.config.registry import DATASETS
from utils.errors import UserError

LISTED = ("n03", "n05", "n11")


class Small(Dataset):
    """Three listed classes of images of 8x8 pixels."""

    name = "seq-small"
    num_tasks = 3
    num_classes = 3
    image_size = 8
    folder = "small"
    class_names = LISTED
    mean = (0.5,) * 3
    std = (0.5,) * 3
    layouts = (DecodedArrays(), ImageNetFolder())
    on_disk = True


def write(place, names, test_folder="val", sizes=((9, 8), (10, 20))):
    """JPEG files, two a class, one colour a class: its number times 10."""
    for split in ("train", test_folder):
        for name in names:
            folder = place / split / name
            folder.mkdir(parents=True)
            for number, size in enumerate(sizes):
                Image.new("RGB", size, (10 * int(name[1:]),) * 3).save(folder / f"{number}.JPEG", quality=100)
    return place


def colours(images):
    assert (images == images[:, :1, :1, :1]).all()
    return (images[:, 0, 0, 0] // 10).tolist()


def test_listed_classes_are_taken_from_the_whole_tree(tmp_path):
    place = write(tmp_path / "imagenet", ("n11", "n01", "n05", "n03", "n20"))
    assert f"image folder {place}, 6 training and 6 test images" in Small().describe(tmp_path)
    arrays = Small().load(tmp_path)
    assert colours(arrays.train_x) == colours(arrays.test_x) == [3, 3, 5, 5, 11, 11]
    assert arrays.train_y.tolist() == [0, 0, 1, 1, 2, 2]
    assert arrays.train_x.shape == (6, 8, 8, 3)
    assert isinstance(arrays.train_x, np.memmap)
    assert arrays.on_disk
    assert f"four arrays in {tmp_path / 'small'}" in Small().describe(tmp_path)
    assert "published" not in Small().describe(tmp_path)


@pytest.mark.parametrize("test_folder", ["val", "test"])
def test_folder_of_the_listed_classes_is_read(tmp_path, test_folder):
    write(tmp_path / "small", LISTED, test_folder)
    assert "published" not in Small().describe(tmp_path)
    assert colours(Small().load(tmp_path).test_x) == [3, 3, 5, 5, 11, 11]


def test_folder_of_other_classes_is_read_and_told(tmp_path):
    write(tmp_path / "small", ("n02", "n07", "n03"))
    assert "its classes are not the 3 of the published studies, n03 to n11" in Small().describe(tmp_path)
    assert colours(Small().load(tmp_path).train_x) == [2, 2, 3, 3, 7, 7]
    assert "four arrays" in Small().describe(tmp_path)
    assert "its classes are not the 3 of the published studies, n03 to n11" in Small().describe(tmp_path)


def test_arrays_of_unknown_origin_are_not_said_to_be_of_other_classes(tmp_path):
    place = write(tmp_path / "small", ("n02", "n07", "n03"))
    Small().load(tmp_path)
    (place / "classes.txt").unlink()
    assert "published" not in Small().describe(tmp_path)


def test_listed_classes_with_another_in_the_place_of_one_are_refused(tmp_path):
    write(tmp_path / "small", ("n03", "n05", "n12"))
    with pytest.raises(UserError, match=r"small/train lacks the class folder n11; put them there$"):
        Small().load(tmp_path)
    assert not list(tmp_path.rglob("*.npy"))


def test_arrays_do_without_the_image_files(tmp_path):
    place = write(tmp_path / "small", LISTED)
    before = Small().load(tmp_path).fingerprint()
    for folder in ("train", "val"):
        (place / folder).rename(tmp_path / folder)
    assert Small().load(tmp_path).fingerprint() == before


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_classes_are_named(tmp_path, split):
    place = write(tmp_path / "small", (*LISTED, "n12"))
    for name in ("n05", "n11"):
        (place / split / name).rename(tmp_path / f"{split}-{name}")
    with pytest.raises(UserError, match=rf"small/{split} lacks the class folders n05, n11; put them there$"):
        Small().load(tmp_path)
    assert "lacks the class folders n05, n11" in Small().describe(tmp_path)


def test_of_many_missing_classes_the_first_are_named(tmp_path):
    write(tmp_path / "imagenet100", ("n01440764", "n90000000"))
    message = DATASETS.get("seq-imagenet100")().describe(tmp_path)
    assert "lacks the class folders n01443537, n01484850, n01491361 and 96 more; put them there" in message


def test_missing_validation_images_are_told(tmp_path):
    place = write(tmp_path / "small", LISTED)
    (place / "val").rename(tmp_path / "val")
    with pytest.raises(UserError, match="has no folder val beside train"):
        Small().load(tmp_path)


def test_empty_class_and_unreadable_image_are_named(tmp_path):
    place = write(tmp_path / "small", LISTED)
    file = place / "val" / "n05" / "1.JPEG"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match=r"val/n05/1\.JPEG cannot be read as images"):
        Small().load(tmp_path)
    for each in file.parent.iterdir():
        each.unlink()
    with pytest.raises(UserError, match="val/n05 holds no image"):
        Small().load(tmp_path)
