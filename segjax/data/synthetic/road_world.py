"""The drawn world without its things: classes, camera, light and road.

World coordinates are metres, x to the right and z ahead of the camera; the ground is flat.
"""

from math import cos, sin
from typing import NamedTuple

import numpy as np

ROAD_CLASSES = (
  ("sky", (70, 130, 180)),
  ("building", (70, 70, 70)),
  ("vegetation", (107, 142, 35)),
  ("ground", (152, 251, 152)),
  ("sidewalk", (244, 35, 232)),
  ("road", (128, 64, 128)),
  ("lane_marking", (255, 255, 255)),
  ("vehicle", (0, 0, 142)),
)
SKY, BUILDING, VEGETATION, GROUND, SIDEWALK, ROAD, LANE_MARKING, VEHICLE = range(8)
ON_THE_GROUND = GROUND, SIDEWALK, ROAD, LANE_MARKING

FAR = 110.0  # metres; the ground ends here, behind the skyline
ASPHALT = np.array(  # of roads, sidewalks, parking areas and walls
  [
    (0.62, 0.61, 0.57),  # light concrete
    (0.42, 0.44, 0.48),  # bluish
    (0.47, 0.43, 0.38),  # brown
    (0.29, 0.29, 0.31),  # dark
    (0.51, 0.51, 0.51),  # middle grey
  ],
  "f4",
)
EARTH = np.array(  # grass, dry grass, dirt, gravel
  [(0.30, 0.41, 0.17), (0.48, 0.47, 0.25), (0.47, 0.37, 0.26), (0.55, 0.52, 0.47)], "f4"
)
WALLS = np.array(
  [
    (0.48, 0.28, 0.22),  # brick
    (0.66, 0.58, 0.46),  # beige
    (0.78, 0.77, 0.74),  # white
    (0.67, 0.51, 0.32),  # ochre
    (0.52, 0.52, 0.53),  # grey
  ],
  "f4",
)


class Camera(NamedTuple):
  """A pinhole camera, level but for a little roll."""

  focal: float  # pixels
  height: float  # metres above ground
  middle: tuple[float, float]  # column and row of the point straight ahead
  roll: float  # rise of the horizon's row per column
  horizon: np.ndarray  # f32[W], row of the horizon in each column
  slope: np.ndarray  # f32[W], x / z of each column's rays

  def project(self, x, height, z):
    """Returns image column and row of world points; z must be positive."""
    column = self.focal * x / z
    row = self.middle[1] + self.roll * column + (self.height - height) * self.focal / z
    return self.middle[0] + column, row


class Light(NamedTuple):
  """Sun, sky and air."""

  tint: np.ndarray  # f32[3,1,1], exposure times white balance
  shade: np.ndarray  # f32[3,1,1], factor in a cast shadow
  sun: tuple[float, float]  # shadow displacement (x, z) per metre of height
  sky: np.ndarray  # f32[2,3,1,1], colour at the top and at the horizon
  visibility: float  # metres
  cloud: float  # cloud cover in [0,1]
  glare: float  # strength of the low sun on the road, 0 = none


class Road(NamedTuple):
  """The drivable surface: a curve with a width, and at most one junction."""

  half: float  # half of the width, metres
  curve: tuple[float, float, float]  # offset, heading, curvature of the centre line
  side: int  # side roads: -1 left, 1 right, 0 both, 2 none
  junction: tuple[float, float, float]  # distance, half width, slope dz/dx of the side road

  def centre(self, z):
    """Returns x of the centre line."""
    offset, heading, curvature = self.curve
    return offset + z * (heading + 0.5 * curvature * z)

  def heading(self, z):
    """Returns the centre line's slope dx/dz."""
    return self.curve[1] + self.curve[2] * z

  def lateral(self, x, z):
    """Distance from the centre line, metres, positive to the right."""
    return (x - self.centre(z)) / np.sqrt(1 + self.heading(z) ** 2)

  def outside(self, x, z):
    """Distance to the drivable surface in metres, negative on it; main and side roads joined."""
    lateral = self.lateral(x, z)
    beyond = np.abs(lateral) - self.half
    if self.side == 2:
      return beyond
    distance, half, slope = self.junction
    across = np.abs(z - distance - slope * (x - self.centre(distance)))
    fillet = 2.5 * np.exp(-np.maximum(beyond, 0) / 2)
    across = np.where(lateral * self.side < 0, np.float32(99), across - half - fillet)
    return np.minimum(beyond, across)

  def abeam(self, lateral, z):
    """World (x, z), f64[2], at a distance from the centre line abeam of the road at z."""
    turn = self.heading(z)
    norm = np.hypot(turn, 1)
    return np.array((self.centre(z) + lateral / norm, z - turn * lateral / norm))

  def clear(self, points, margin):
    """Whether points (x, z) keep off the road and do not block the near view."""
    x, z = np.array(points).T
    return (
      z.min() > 4.5
      and self.outside(x, z).min() > margin
      and not (z.min() < 24 and x.min() < 2.5 < x.max() + 5)
    )


def _planes(colours):
  """Colours f32[...,3] as planes f32[...,3,1,1], which spread over an image f32[3,H,W]."""
  return np.asarray(colours, np.float32)[..., None, None]


def draw_camera(rng, height, width):
  """Draws a camera for an image of height x width pixels."""
  focal, row = width * rng.uniform(0.52, 0.72), height * rng.uniform(0.36, 0.5)
  roll = rng.normal(0, 0.018)
  column = np.arange(width, dtype=np.float32) + 0.5 - width / 2
  horizon = row + roll * column
  return Camera(focal, rng.uniform(1.35, 2.1), (width / 2, row), roll, horizon, column / focal)


def draw_light(rng):
  """Draws the light of a clear, overcast, low-sun or dusky hour."""
  kind = rng.choice(4, p=(0.45, 0.3, 0.15, 0.1))  # clear, overcast, low sun, dusk
  sky = (
    ((0.25, 0.45, 0.75), (0.72, 0.82, 0.92)),
    ((0.62, 0.65, 0.69), (0.82, 0.83, 0.84)),
    ((0.45, 0.53, 0.68), (0.98, 0.80, 0.58)),
    ((0.33, 0.38, 0.50), (0.66, 0.59, 0.61)),
  )[kind]
  tint = ((1.08, 1.04, 0.98), (0.86, 0.88, 0.92), (1.07, 0.95, 0.8), (0.82, 0.82, 0.88))[kind]
  tint = np.array(tint) * rng.uniform(0.84, 1.16) * (1 + rng.normal(0, 0.035, 3))
  shade = (1, 0.5, 1, 0.15)[kind] * np.array((0.35, 0.33, 0.29)) * rng.uniform(0.6, 1)
  azimuth, length = rng.uniform(0, 2 * np.pi), (0.8, 0.2, 2.4, 0.3)[kind] * rng.uniform(0.6, 1.3)
  return Light(
    tint=_planes(tint),
    shade=_planes(1 - shade),
    sun=(cos(azimuth) * length, sin(azimuth) * length),
    sky=_planes(np.array(sky) * rng.uniform(0.85, 1.1)),
    visibility=float(rng.choice((200, 400, 900))),
    cloud=(0.5, 0.9, 0.4, 0.6)[kind] * rng.uniform(0.3, 1),
    glare=rng.uniform(0.1, 0.5) * bool(kind == 2),
  )


def draw_road_course(rng):
  """Draws the road's width, its course past the camera and its junction."""
  widths = rng.uniform(2.5, 3.6), rng.uniform(3.4, 5), rng.uniform(5, 7)
  half = float(rng.choice(widths, p=(0.55, 0.37, 0.08)))
  side = int(rng.choice((-1, 1)))  # which side the camera keeps to
  place = rng.choice(3, p=(0.85, 0.13, 0.02))  # in lane, oblique, standing beside the road
  if place == 0:
    offset, heading = side * half * rng.uniform(0.2, 0.65), rng.normal(0, 0.05)
  elif place == 1:
    heading = side * rng.uniform(0.2, 0.6)
    offset = -heading * rng.uniform(3, 11) + rng.normal(0, 1.5)
  else:
    offset, heading = side * (half + rng.uniform(0.3, 3)), -side * rng.uniform(0, 0.3)
  curve = (offset, heading, rng.normal(0, 0.008))
  junction = (rng.uniform(9, 32), rng.uniform(2.5, 4.2), rng.normal(0, 0.25))
  return Road(half, curve, int(rng.choice((-1, 1, 0, 2), p=(0.065, 0.065, 0.04, 0.83))), junction)
