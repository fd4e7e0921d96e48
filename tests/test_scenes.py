"""The drawn road scenes: pure, labelled within the table, and not given away by colour."""

import numpy as np
import pytest

from segjax.data.synthetic import road, road_world


@pytest.fixture(scope="module")
def drawn():
  pairs = [road.draw_road(0, i) for i in range(16)]
  return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


def _is_road(classes):
  return (classes == road_world.ROAD) | (classes == road_world.LANE_MARKING)


def _f1(pred, road):
  return 2 * (pred & road).sum() / (pred.sum() + road.sum())


def test_same_arguments_draw_the_same_bytes():
  first = road.draw_road(3, 7, height=64, width=96)
  np.random.seed(1)  # global state and earlier calls must not matter
  road.draw_road(3, 8, height=64, width=96)
  again = road.draw_road(3, 7, height=64, width=96)
  for a, b in zip(first, again, strict=True):
    assert a.tobytes() == b.tobytes()


def test_every_seed_and_index_draws_another_scene():
  keys = [(s, i) for s in range(3) for i in range(3)]
  images = {road.draw_road(s, i, height=48, width=64)[0].tobytes() for s, i in keys}
  labels = {road.draw_road(s, i, height=48, width=64)[1].tobytes() for s, i in keys}
  assert len(images) == len(labels) == len(keys)


@pytest.mark.parametrize(
  "size", [(256, 512), (256, 256), (97, 131), (64, 33), (32, 32), (375, 1242)]
)
def test_shape_and_dtype(size):
  for index in range(4):
    image, classes = road.draw_road(1, index, height=size[0], width=size[1])
    assert image.shape == (*size, 3) and classes.shape == size
    assert image.dtype == classes.dtype == np.uint8
    assert classes.max() < len(road_world.ROAD_CLASSES)


def test_table_names_the_class_constants():
  for i, (name, colour) in enumerate(road_world.ROAD_CLASSES):
    assert getattr(road_world, name.upper()) == i
    assert len(colour) == 3 and all(0 <= c <= 255 for c in colour)
  assert len({colour for _, colour in road_world.ROAD_CLASSES}) == len(road_world.ROAD_CLASSES)


def test_every_class_occurs(drawn):
  assert np.unique(drawn[1]).tolist() == list(range(len(road_world.ROAD_CLASSES)))


def test_road_share(drawn):
  share = _is_road(drawn[1]).mean((1, 2))
  assert 0.18 <= share.mean() <= 0.30
  assert share.min() > 0.01 and share.max() < 0.6


def test_geometry_does_not_change_with_the_size():
  """The label of a small picture is the large one's, seen coarsely."""
  agree = []
  for index in range(6):
    small = road.draw_road(2, index, height=64, width=128)[1]
    large = road.draw_road(2, index, height=256, width=512)[1]
    agree.append((_is_road(small) == _is_road(large[2::4, 2::4])).mean())
  assert np.mean(agree) > 0.97


def test_image_and_label_share_the_geometry(drawn):
  """The image steps more across label edges than elsewhere, and most at no shift."""
  image, classes = drawn[0].astype(np.float32).mean(-1), drawn[1]
  step = np.abs(np.diff(image, axis=2))
  edge = np.diff(classes.astype(np.int8), axis=2) != 0
  at = [step[np.roll(edge, shift, axis=2)].mean() for shift in (-6, -3, 0, 3, 6)]
  assert np.argmax(at) == 2 and at[2] > 2 * step.mean()


def test_colour_alone_does_not_find_the_road(drawn):
  """The nearest mean colour, and every brightness window, stay far below a network."""
  image, road = drawn[0][:, ::4, ::4].astype(np.float32), _is_road(drawn[1])[:, ::4, ::4]
  train, test = slice(0, 8), slice(8, 16)
  means = [image[train][road[train] == side].mean(0) for side in (True, False)]
  distance = [((image[test] - mean) ** 2).sum(-1) for mean in means]
  assert _f1(distance[0] < distance[1], road[test]) < 0.6

  grey = image.mean(-1)
  levels = np.arange(0, 256, 24)
  best = max(_f1((grey >= a) & (grey < b), road) for a in levels for b in levels if b > a)
  assert best < 0.6
