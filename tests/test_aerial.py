"""The drawn aerial views: pure, labelled exactly, and with every class common enough."""

import numpy as np
import pytest

from segjax.data.shared_tables import FLOODNET
from segjax.data.synthetic import aerial, sources

COUNT = 50


@pytest.fixture(scope="module")
def drawn():
  pairs = [aerial.draw_aerial(0, i) for i in range(COUNT)]
  return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


def test_same_arguments_draw_the_same_bytes():
  first = aerial.draw_aerial(3, 7, height=64, width=96)
  np.random.seed(1)  # global state and earlier calls must not matter
  aerial.draw_aerial(3, 8, height=64, width=96)
  again = aerial.draw_aerial(3, 7, height=64, width=96)
  for a, b in zip(first, again, strict=True):
    assert a.tobytes() == b.tobytes()


def test_every_seed_and_index_draws_another_scene():
  pairs = [aerial.draw_aerial(s, i, height=48, width=64) for s in range(3) for i in range(3)]
  for part in zip(*pairs, strict=True):
    assert len({array.tobytes() for array in part}) == 9


@pytest.mark.parametrize("size", [(256, 256), (97, 131), (64, 33), (20, 20), (480, 640)])
def test_shape_and_dtype(size):
  for index in range(4):
    image, classes = aerial.draw_aerial(1, index, height=size[0], width=size[1])
    assert image.shape == (*size, 3) and classes.shape == size
    assert image.dtype == classes.dtype == np.uint8
    assert classes.max() < len(FLOODNET)


def test_table():
  names, colours = zip(*FLOODNET.classes, strict=True)
  assert names == (
    "Background", "Building", "Road", "Water", "Tree", "Vehicle", "Pool", "Grass",
  )  # fmt: skip
  assert len(set(colours)) == 8 and colours[0] == (0, 0, 0) and colours[6] == (255, 255, 0)


def test_every_class_is_common(drawn):
  """Present: 0.2 % of the image at least, 131 pixels."""
  shares = np.stack([np.bincount(c.ravel(), minlength=8) / c.size for c in drawn[1]])
  present = (shares > 0.002).mean(0)
  for (name, _), share in zip(FLOODNET.classes, present, strict=True):
    assert share >= (0.15 if name in ("Vehicle", "Pool") else 1 / 3), (name, share)
  assert shares.mean(0).max() < 0.4


def test_geometry_does_not_change_with_the_size():
  """The label of a small picture is the large one's, seen coarsely."""
  agree = []
  for index in range(8):
    small = aerial.draw_aerial(2, index, height=128, width=192)[1]
    large = aerial.draw_aerial(2, index, height=256, width=384)[1]
    agree.append((small == large[1::2, 1::2]).mean())
  assert np.mean(agree) > 0.94 and min(agree) > 0.85


def test_image_and_label_share_the_geometry(drawn):
  """The image steps more across label edges than elsewhere, and most at no shift."""
  image, classes = drawn[0].astype(np.float32).mean(-1), drawn[1].astype(np.int8)
  for axis in (1, 2):
    step = np.abs(np.diff(image, axis=axis))
    edge = np.diff(classes, axis=axis) != 0
    at = [step[np.roll(edge, shift, axis=axis)].mean() for shift in (-4, -2, 0, 2, 4)]
    assert np.argmax(at) == 2 and at[2] > 2 * step.mean()


@pytest.mark.parametrize("name", ["Building", "Road", "Water", "Tree", "Vehicle", "Pool"])
def test_each_class_differs_from_what_surrounds_it(drawn, name):
  """Mean contrast of colour over the edges of the class, of 255."""
  mine = drawn[1] == [n for n, _ in FLOODNET.classes].index(name)
  edge = mine[:, :, 2:-1] & ~mine[:, :, 1:-2]  # one pixel of blur aside
  colour = drawn[0].astype(np.float32)
  contrast = np.abs(colour[:, :, 3:] - colour[:, :, :-3]).mean(-1)
  assert contrast[edge].mean() > 1.5 * contrast.mean()


def test_colour_alone_does_not_find_the_classes(drawn):
  """The nearest mean colour of a class is right on less than half of the pixels."""
  image, classes = drawn[0][:, ::8, ::8].astype(np.float32), drawn[1][:, ::8, ::8]
  train, test = slice(0, COUNT // 2), slice(COUNT // 2, COUNT)
  means = np.stack([image[train][classes[train] == c].mean(0) for c in range(8)])
  pred = ((image[test][..., None, :] - means) ** 2).sum(-1).argmin(-1)
  assert (pred == classes[test]).mean() < 0.5


def test_splits_share_nothing():
  fields = dict(num_train=30, num_val=8, height=32, width=48)
  train, val = (sources.aerial_scenes(split, **fields) for split in ("train", "val"))
  assert (len(train), len(val)) == (30, 8)
  assert not set(train.names) & set(val.names)
  images = {s[i]["image"].tobytes() for s in (train, val) for i in range(len(s))}
  assert len(images) == 38
  assert train.labels.classes == FLOODNET.classes


def test_source_draws_its_own_scene():
  source = sources.aerial_scenes("val", seed=5, num_val=2, height=32, width=48)
  image, classes = aerial.draw_aerial(5, 1_000_001, height=32, width=48)
  np.testing.assert_array_equal(source[1]["image"], image)
  np.testing.assert_array_equal(source[1]["label"], classes)
