"""The sources that are drawn, not read: `road_scenes` and `aerial_scenes`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from segjax.data import label_sets
from segjax.data.labels import IGNORE, LabelTable
from segjax.data.shared_tables import FLOODNET, FOUR, OBJECTS, OVERLAPPING, ROAD
from segjax.data.synthetic.aerial import draw_aerial
from segjax.data.synthetic.road import draw_road, draw_road_and_shadows
from segjax.data.synthetic.road_world import LANE_MARKING, ROAD_CLASSES, VEHICLE
from segjax.data.synthetic.road_world import ROAD as ROAD_SURFACE
from segjax.errors import UserError

FIRSTS = dict(train=0, val=1_000_000, test=2_000_000)  # index of the first scene of a split
MOST = 1_000_000  # scenes of a split
# Merged classes of a road: their table, and drawn class -> merged class; the rest is 0.
MERGED = {
  "four": (FOUR, dict(road=1, lane_marking=1, sidewalk=2, vehicle=3)),
  "objects": (OBJECTS, dict(building=1, vegetation=2, vehicle=3, road=5, lane_marking=5)),
}


@dataclasses.dataclass(frozen=True)
class Synthetic:
  """Drawn scenes, each a pure function of (seed, index); nothing is read or stored.

  Attributes:
    labels: label table.
    names: one per scene.
    seed: random seed of the drawings.
    first: index of the first scene.
    height: pixels.
    width: pixels.
    draw: (seed, index, height=, width=) -> image u8[H,W,3] and label u8[H,W].
  """

  labels: LabelTable
  names: tuple[str, ...]
  seed: int
  first: int
  height: int
  width: int
  draw: Callable

  def __len__(self):
    return len(self.names)

  def __getitem__(self, i):
    index = range(self.first, self.first + len(self))[i]  # IndexError beyond the last one
    image, label = self.draw(self.seed, index, height=self.height, width=self.width)
    return dict(image=image, label=label)

  def faults(self, i):
    """No faults: a drawing is never broken, and `checks.check` need not draw it."""
    return []


def road_scenes(
  split, *, seed=0, num_train=500, num_val=48, num_test=48, height=256, width=512, classes="road"
):
  """Drawn driver's views, each a pure function of (seed, index).

  Args:
    split: "train", "val" or "test"; no two share an index.
    seed: random seed of the drawings, apart from the seed of training.
    num_train: examples in "train".
    num_val: examples in "val".
    num_test: examples in "test".
    height: pixels.
    width: pixels.
    classes: "road" (not road / road, lane markings are road), "four" (other, road, sidewalk,
      vehicle), "objects" (background, building, tree, car, pedestrian, of whom there are none, and
      road), "all" (every drawn class) or "overlapping" (drivable, lane_marking, shadow, vehicle; a
      pixel may be of several or of none, for the task "multi_label").
  """
  names = [name for name, _ in ROAD_CLASSES]
  lookup = np.full(256, IGNORE, np.uint8)
  if classes == "road":
    labels = ROAD
    lookup[: len(names)] = [name in ("road", "lane_marking") for name in names]
  elif classes in MERGED:
    labels, values = MERGED[classes]
    lookup[: len(names)] = [values.get(name, 0) for name in names]
  elif classes == "all":
    labels = LabelTable(tuple(ROAD_CLASSES))
    lookup[: len(names)] = range(len(names))
  elif classes == "overlapping":
    labels = OVERLAPPING
  else:
    raise UserError(
      f"road_scenes: classes is {classes!r}, expected 'road', 'four', 'objects', 'all' or "
      "'overlapping'"
    )

  def draw(*scene, **size):
    if labels.overlapping:
      return _overlapping(*draw_road_and_shadows(*scene, **size))
    image, drawn_classes = draw_road(*scene, **size)
    return image, lookup[drawn_classes]

  counts = dict(train=num_train, val=num_val, test=num_test)
  return _scenes(labels, "scene", split, draw, seed=seed, height=height, width=width, counts=counts)


def _overlapping(image, drawn_classes, shadows):
  """The image, and its sets of the classes of `OVERLAPPING`."""
  lane = drawn_classes == LANE_MARKING
  planes = [lane | (drawn_classes == ROAD_SURFACE), lane, shadows, drawn_classes == VEHICLE]
  return image, label_sets.join(np.stack(planes, -1))


def aerial_scenes(
  split, *, seed=0, num_train=1000, num_val=100, num_test=100, height=256, width=256
):
  """Drawn aerial views of a flooded suburb, each a pure function of (seed, index).

  Args:
    split: "train", "val" or "test"; no two share an index.
    seed: random seed of the drawings, apart from the seed of training.
    num_train: examples in "train".
    num_val: examples in "val".
    num_test: examples in "test".
    height: pixels.
    width: pixels.
  """
  counts = dict(train=num_train, val=num_val, test=num_test)
  size = dict(height=height, width=width)
  return _scenes(FLOODNET, "aerial", split, draw_aerial, seed=seed, **size, counts=counts)


def _scenes(labels, prefix, split, draw, *, seed, counts, height, width):
  """The scenes of a split; no two share an index."""
  if seed < 0:
    raise UserError(f"data.source.seed is {seed}, expected 0 or more")
  for name, count in counts.items():
    if count > MOST:
      raise UserError(
        f"data.source.num_{name} is {count}, expected at most {MOST}, where the next split begins"
      )
  count, first = counts[split], FIRSTS[split]
  names = tuple(f"{prefix}_{first + i:07d}" for i in range(count))
  return Synthetic(labels, names, seed, first, height, width, draw)
