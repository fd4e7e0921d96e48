"""The objects along the drawn road: walls, trees and vehicles, and the shadows they cast."""

from typing import NamedTuple

import numpy as np

from segjax.data.synthetic.road_world import ASPHALT, WALLS, Road

_PAINT = np.array(
  [
    (0.85, 0.85, 0.85),  # white
    (0.62, 0.63, 0.65),  # silver
    (0.36, 0.37, 0.39),  # grey
    (0.10, 0.10, 0.11),  # black
    (0.55, 0.10, 0.09),  # red
    (0.13, 0.22, 0.46),  # blue
    (0.16, 0.30, 0.22),  # green
  ],
  "f4",
)
_HEDGE = np.array((0.20, 0.29, 0.11))


class Wall(NamedTuple):
  """A vertical plane, of a building or a hedge."""

  start: np.ndarray  # f64[2], (x, z)
  end: np.ndarray  # f64[2], (x, z)
  metres: float  # height, up to the eaves
  hedge: bool
  colour: np.ndarray  # [3]
  roof: float  # rise of the gable in metres, 0 = flat
  seed: int


class Tree(NamedTuple):
  """A crown on a trunk."""

  x: float
  z: float
  trunk: float  # metres high, 0 = a bush
  radius: float  # half of the crown's width, metres
  crown: float  # half of the crown's height, metres
  colour: np.ndarray  # [3]
  seed: int


class Vehicle(NamedTuple):
  """A car or a van on the road or beside it."""

  x: float
  z: float
  heading: float  # slope dx/dz of its axis
  length: float  # metres
  tall: float  # metres
  colour: np.ndarray  # [3]
  oncoming: bool


class Plan(NamedTuple):
  """Everything that stands above the ground."""

  road: Road
  sun: np.ndarray  # f64[2], shadow displacement (x, z) per metre of height
  things: list  # (distance, Wall | Tree | Vehicle)
  shadows: list  # outlines on the ground, (x, z) each
  vehicles: list  # (lateral, z) of those standing


def _add_building(rng, plan, near, *, length, depth, metres, hedge, colour, roof):
  """Adds a box along the road, or with depth 0 a plane, from its near corner (lateral, z)."""
  lateral, z = near
  side = np.sign(lateral)
  a, b = plan.road.abeam(lateral, z), plan.road.abeam(lateral, z + length)
  away = plan.road.abeam(lateral + side * depth, z) - a
  corners = [a, b, b + away, a + away]
  if not plan.road.clear([*corners, (a + b) / 2], 0.3):
    return
  far = np.mean(corners, axis=0)[1]
  walls = [(0.1, a, b, 0, 0.7 if side * plan.sun[0] > 0 else 1.0)]
  walls += [(0, a, a + away, roof, 0.85)] * (depth > 0)
  walls += [(0.2, b, b + away, roof, 0.85)] * bool(depth > 0 and b[0] * side < 0)  # the road turns
  seed = int(rng.integers(1 << 16))
  for behind, start, end, gable, lit in walls:
    wall = Wall(start, end, metres, hedge, colour * lit, gable, seed)
    plan.things.append((far + behind, wall))
  reach = min(metres, 12) * plan.sun
  plan.shadows.append((a, b, b + reach, a + reach))
  plan.shadows.append((a + away, a, a + reach, a + away + reach))


def _add_tree(rng, plan, x, z, size):
  if abs(x) > z + 9 or not plan.road.clear([(x, z)], 0.5):  # far outside the picture
    return
  trunk = rng.uniform(1.2, 2.8) if size > 1.2 else 0
  radius, crown = size * rng.uniform(0.8, 1.2), size * rng.uniform(0.8, 1.4)
  colour = np.array((0.21, 0.30, 0.12)) * rng.uniform(0.7, 1.4) * (1 + rng.normal(0, 0.08, 3))
  seed = int(rng.integers(1 << 16))
  plan.things.append((z, Tree(float(x), float(z), trunk, radius, crown, colour, seed)))
  turn = np.linspace(0, 2 * np.pi, 14)[:-1]
  rim = radius * rng.uniform(0.6, 1.2, 13)[:, None] * np.stack((np.cos(turn), np.sin(turn)), 1)
  base, stem, sun = np.array((x, z)), np.array((0.12, 0.05)), plan.sun
  plan.shadows.append(base + sun * (trunk + crown) + rim * (1, 1 + np.hypot(*sun) * 0.3))
  plan.shadows.append(np.add(base, [-stem, stem, stem + sun * trunk, -stem + sun * trunk]))


def _add_vehicle(rng, plan, lateral, z):
  x, z = plan.road.abeam(lateral, z).tolist()
  if z < 7 or any(abs(lateral - u) < 2.5 and abs(z - v) < 7 for u, v in plan.vehicles):
    return
  plan.vehicles.append((lateral, z))
  tall, length = ((1.45, 4.2) if rng.random() < 0.8 else (2.2, 5.2)) * rng.uniform(0.94, 1.08, 2)
  colour = _PAINT[rng.integers(len(_PAINT))] * rng.uniform(0.8, 1.1)
  heading = float(plan.road.heading(z)) + rng.normal(0, 0.02)
  oncoming = bool(lateral * plan.road.curve[0] > 0)  # the camera keeps to the other side
  plan.things.append((z - 2, Vehicle(x, z, heading, length, tall, colour, oncoming)))
  ahead = np.array((heading, 1)) / np.hypot(heading, 1)
  across, ahead = 0.95 * ahead[::-1] * (1, -1), 0.52 * length * ahead
  corners = [-ahead - across, across - ahead, ahead + across, ahead - across]
  corners = np.add((x, z), corners)
  plan.shadows.extend((corners, corners + plan.sun * tall * 0.7))


def _line_road(rng, plan, side, setting):
  """Places buildings, hedges and trees along one side of the road (-1 left, 1 right)."""
  road, z = plan.road, rng.uniform(2, 14)
  while z < 85:
    built = rng.random() < (0.85, 0.45, 0.06, 0.9)[setting]
    length = rng.uniform(8, 20) if built else rng.uniform(4, 16)
    setback = road.half + rng.uniform((2.5, 5, 8, 1.5)[setting], (5, 12, 25, 3)[setting])
    near = (side * setback, z)
    if built:
      grey = rng.random() < 0.4
      colour = (ASPHALT if grey else WALLS)[rng.integers(5)] * rng.uniform(0.8, 1.15)
      metres = (rng.uniform(5, 16), rng.uniform(3, 6), 4, rng.uniform(1.2, 2.6))[setting]
      size = {"length": length, "depth": (rng.uniform(6, 10), 0.3)[setting == 3], "metres": metres}
      roof = rng.uniform(1.5, 3) * (setting in (1, 2))
      _add_building(rng, plan, near, **size, hedge=False, colour=colour, roof=roof)
    elif rng.random() < 0.3:
      size = {"length": length, "depth": 0, "metres": rng.uniform(0.8, 1.8)}
      _add_building(rng, plan, near, **size, hedge=True, colour=_HEDGE, roof=0)
    for _ in range(rng.poisson((0.5, 1.1, 1.3, 0.5)[setting])):
      lateral = side * (road.half + rng.uniform(1, (4, 9, 20, 9)[setting]))
      x, far = road.abeam(lateral, z + rng.uniform(0, length))
      size = rng.uniform(1.3, 3.2) if rng.random() < 0.7 else rng.uniform(0.4, 1.1)
      _add_tree(rng, plan, x, far, size)
    z += length + rng.uniform(0, 4) * (setting != 0)


def draw_layout(rng, road, light):
  """Places buildings, trees and vehicles along the road."""
  plan = Plan(road, np.array(light.sun), [], [], [])
  setting = rng.choice(4, p=(0.35, 0.3, 0.25, 0.1))  # town, suburb, country, walled
  for side in (-1, 1):
    _line_road(rng, plan, side, setting)
  for _ in range(rng.poisson(1.2)):
    lateral = rng.choice((-1, 1)) * road.half * rng.uniform(0.4, 0.55)
    _add_vehicle(rng, plan, lateral, rng.uniform(8, 60))
  if rng.random() < 0.45:  # a row of parked vehicles, on the road or next to it
    lateral = rng.choice((-1, 1)) * (road.half + rng.choice((-1.1, 1.6)))
    z = rng.uniform(7, 20)
    for _ in range(rng.integers(1, 5)):
      _add_vehicle(rng, plan, lateral, z)
      z += rng.uniform(7.1, 11)
  return plan
