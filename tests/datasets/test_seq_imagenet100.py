import numpy as np
from PIL import Image

from datasets.seq_imagenet100 import SeqImagenet100
from datasets.stream import Stream, class_order


def test_classes_are_a_hundred_wordnet_ids_in_order():
    names = SeqImagenet100().class_names
    assert len(set(names)) == 100
    assert list(names) == sorted(names)
    assert (names[0], names[-1]) == ("n01440764", "n01855672")
    # Of the class index of ILSVRC-2012: great white shark, tree frog, night snake, tarantula, goldfinch.
    assert [names[index] for index in (2, 31, 60, 76, 11)] == [
        *("n01484850", "n01644373", "n01740131", "n01774750", "n01531178"),
    ]


def test_offline_order_is_the_published_list(tmp_path):
    dataset = SeqImagenet100()
    order = class_order(dataset.class_orders["offline"], 100, seed=7)
    assert np.argsort(order)[:5].tolist() == [68, 56, 78, 8, 23]


def test_image_files_become_a_stream_from_disk(tmp_path):
    dataset = SeqImagenet100()
    for split in ("train", "val"):
        for number, name in enumerate(dataset.class_names):
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (16, 9), (number, 0, 0)).save(folder / "a.png")
    arrays = dataset.load(tmp_path)
    order = class_order(dataset.class_orders["offline"], 100, seed=0)
    stream = Stream(arrays, num_tasks=10, label_of_class=order, seed=0, device="cpu")
    arrays.release()
    images, labels = stream.evaluation_set(0)
    assert images.shape == (10, 3, 256, 256)
    assert labels.tolist() == list(range(10))
    assert images[:, 0, 128, 128].tolist() == [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]


def test_decoding_that_was_killed_in_its_last_instant_is_finished(tmp_path):
    folder = tmp_path / "imagenet100"
    (folder / "decoded").mkdir(parents=True)
    for split in ("train", "test"):
        np.save(folder / "decoded" / f"{split}_y.npy", np.arange(100))
        images = np.lib.format.open_memmap(
            (folder if split == "test" else folder / "decoded") / f"{split}_x.npy", "w+", np.uint8, (100, 256, 256, 3)
        )
        del images
    arrays = SeqImagenet100().load(tmp_path)
    assert len(arrays.train_y) == len(arrays.test_y) == 100
