"""The objects of the drawn aerial views: streets, houses, trees, vehicles and their shadows.

Coordinates are metres in the street grid, s along the streets and t across them; colours are
float in [0,1].
"""

from typing import NamedTuple

import numpy as np
from PIL import ImageDraw

# Indices into `shared_tables.FLOODNET`.
BACKGROUND, BUILDING, ROAD, WATER, TREE, VEHICLE, POOL, GRASS = range(8)

CARS = np.array(
  [(0.9, 0.9, 0.9), (0.12, 0.12, 0.13), (0.6, 0.62, 0.64), (0.55, 0.1, 0.1), (0.13, 0.22, 0.45)]
)
_BOX = np.array(((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)))
_SIDES = np.array(((0, 1, 5, 4), (2, 3, 4, 5), (1, 2, 5, 5), (3, 0, 4, 4)))  # of a roof
_STAR = np.stack([np.cos(a := np.arange(11) * (2 * np.pi / 11)), np.sin(a)], -1)  # a crown's rim


class View(NamedTuple):
  """A camera that looks straight down."""

  pixels: float  # per metre
  matrix: np.ndarray  # f64[2,2], turns and scales grid coordinates into pixels
  middle: np.ndarray  # f64[2], column and row of the grid's origin
  radius: float  # of a circle around the origin that holds the image, metres

  def project(self, points):
    """Grid points f64[N,2] -> image columns and rows f64[N,2]."""
    return points @ self.matrix + self.middle

  def sees(self, points, margin, shape):
    """Whether grid points f64[N,2] are in the image (height, width) or `margin` metres off."""
    column, row = self.project(points).T
    edge = margin * self.pixels
    return (np.maximum(-column, column - shape[1]) < edge) & (
      np.maximum(-row, row - shape[0]) < edge
    )


class Canvas(NamedTuple):
  """An image and its classes, painted alike."""

  view: View
  image: ImageDraw.ImageDraw  # RGB
  classes: ImageDraw.ImageDraw  # L

  def polygon(self, points, colour, value):
    """Paints a polygon f64[N,2] of the grid."""
    flat = self.view.project(points).ravel().tolist()
    self.image.polygon(flat, rgb(colour))
    self.classes.polygon(flat, value)

  def colour(self, points, colour):
    """Paints a polygon into the image alone: a detail of an object."""
    self.image.polygon(self.view.project(points).ravel().tolist(), rgb(colour))

  def colours(self, shapes, colour, lit):
    """Paints polygons f64[K,N,2] as `colour`, of lit f64[K] times its brightness."""
    flat = self.view.project(shapes).reshape(len(shapes), -1).tolist()
    for points, part in zip(flat, lit, strict=True):
      self.image.polygon(points, rgb(colour * part))


class Light(NamedTuple):
  """Sun and camera."""

  shadow: np.ndarray  # f64[2], shadow displacement (s, t) per metre of height
  shade: float  # brightness in a cast shadow, 1 = overcast
  tint: np.ndarray  # f32[3], exposure times white balance


class Streets(NamedTuple):
  """Parallel streets that wind alike, and straight cross streets at right angles."""

  half: float  # half of a street's width, metres
  pitch: float  # distance of the streets, metres
  shift: float  # t of one of them at s = 0
  wind: tuple[float, float, float]  # swing in metres, radians per metre, phase
  cross: tuple[float, ...]  # s of the cross streets

  def centre(self, s):
    """Displacement t of the streets at s, metres."""
    swing, rate, phase = self.wind
    return swing * np.sin(s * rate + phase)

  def heading(self, s):
    """Unit vector along the streets at s."""
    swing, rate, phase = self.wind
    along = np.array((1.0, swing * rate * np.cos(s * rate + phase)))
    return along / np.hypot(*along)

  def numbers(self, radius):
    """Numbers k of the streets within `radius` of the origin."""
    reach = radius + self.wind[0] + self.pitch / 2
    first = np.ceil((-reach - self.shift) / self.pitch)
    return range(int(first), int((reach - self.shift) // self.pitch) + 1)

  def beside(self, k, s, offset):
    """Points f64[N,2] at `offset` metres abeam of street k."""
    s = np.atleast_1d(np.asarray(s, float))
    return np.stack((s, self.centre(s) + self.shift + k * self.pitch + offset), -1)

  def strip(self, k, half, radius, offset=0.0):
    """Outline f64[N,2] of a band along street k."""
    s = np.linspace(-radius, radius, 33)
    return np.concatenate(
      (self.beside(k, s, offset - half), self.beside(k, s[::-1], offset + half))
    )

  def clear(self, points, margin):
    """Whether points f64[N,2] keep `margin` metres f64[N] off every street."""
    s, t = points.T
    across = (t - self.centre(s) - self.shift + self.pitch / 2) % self.pitch - self.pitch / 2
    free = np.abs(across) > self.half + margin
    for at in self.cross:
      free &= np.abs(s - at) > self.half + margin
    return free


class House(NamedTuple):
  """A block with a pitched roof; an L-shaped house is two of them."""

  centre: np.ndarray
  along: np.ndarray  # unit vector of the ridge
  length: float
  width: float
  height: float
  hip: float  # 0 gable, 1 hipped
  colour: np.ndarray


class Tree(NamedTuple):
  """A crown."""

  centre: np.ndarray
  radius: float
  colour: np.ndarray


class Vehicle(NamedTuple):
  """A car, van or lorry."""

  centre: np.ndarray
  along: np.ndarray
  length: float
  colour: np.ndarray


def rgb(colour):
  """Colour in [0,1] -> (red, green, blue) in 0..255."""
  return tuple([min(max(int(255 * c), 0), 255) for c in colour.tolist()])


def frame(centre, along, points):
  """Points (along, across) of an object -> grid points f64[N,2]."""
  a, b = along.tolist()
  return np.asarray(points) @ np.array(((a, b), (-b, a))) + centre


def box(centre, along, length, width):
  """Corners f64[4,2] of a rectangle."""
  return frame(centre, along, _BOX * (length, width))


def rim(rng, centre, radius, rough):
  """A round blob, f64[11,2]."""
  return centre + _STAR * (radius * rng.uniform(1 - rough, 1 + rough, (11, 1)))


def paint_shadow(draw, view, light, thing):
  """Paints the shadow of an object into a mask, 255 = shadow."""
  if isinstance(thing, Tree):
    for part in (0.5, 1.0):
      middle = thing.centre + light.shadow * (thing.radius * 1.3 * part)
      draw.polygon(view.project(middle + _STAR * (thing.radius * 0.9)).ravel().tolist(), 255)
    return
  width, height = (thing.width, thing.height) if isinstance(thing, House) else (1.9, 1.5)
  near = view.project(box(thing.centre, thing.along, thing.length, width))
  far = near + light.shadow @ view.matrix * height
  draw.polygon(far.ravel().tolist(), 255)
  near, far = near.tolist(), far.tolist()
  for i in range(4):
    draw.polygon([*near[i - 1], *near[i], *far[i], *far[i - 1]], 255)


def paint_house(rng, canvas, light, house):
  """Paints a roof, each side as bright as the sun makes it, with vents and skylights."""
  x, y = house.length / 2, house.width / 2
  ridge = x - house.hip * min(0.9 * y, x)
  corners = (-x, -y), (x, -y), (x, y), (-x, y)
  points = frame(house.centre, house.along, (*corners, (-ridge, 0), (ridge, 0)))
  canvas.polygon(points[:4], house.colour * 0.6, BUILDING)
  across = np.array((-house.along[1], house.along[0]))
  slope = 0.3 * (1 - light.shade) * (np.array((across, house.along)) @ light.shadow)
  a, b = (slope + rng.uniform(-0.03, 0.03, 2)).tolist()
  canvas.colours(points[_SIDES], house.colour, (0.95 + a, 0.95 - a, 0.95 - b, 0.95 + b))
  ends = canvas.view.project(points[4:]).ravel().tolist()
  canvas.image.line(ends, rgb(house.colour * (0.8, 1.15)[rng.integers(2)]))
  count = rng.integers(0, 4)
  spots = frame(house.centre, house.along, rng.uniform(-0.8, 0.8, (count, 2)) * (x, y))
  for spot, size in zip(spots, rng.uniform(0.5, 1.6, (count, 2)), strict=True):
    shade = (0.55, 1.35)[rng.integers(2)]
    canvas.colour(box(spot, house.along, *size.tolist()), house.colour * shade)


def paint_tree(rng, canvas, light, tree):
  """Paints a crown: a dark rim and lighter leaves towards the sun."""
  canvas.polygon(rim(rng, tree.centre, tree.radius, 0.16), tree.colour * 0.66, TREE)
  sun = light.shadow * (-tree.radius / (np.hypot(*light.shadow) + 0.3))
  sizes = np.array((0.75, 0.45))[:, None, None]
  rims = _STAR * sizes * rng.uniform(0.75, 1.25, (2, 11, 1)) * tree.radius
  canvas.colours(tree.centre + sun * (0.85 - sizes) * 0.6 + rims, tree.colour, (0.85, 1.05))
  spots = rng.normal(0, tree.radius * 0.38, (4, 1, 2)) + _STAR[::2] * (tree.radius * 0.2)
  canvas.colours(tree.centre + sun * 0.12 + spots, tree.colour, rng.uniform(0.6, 1.4, 4).tolist())


def paint_vehicle(canvas, vehicle):
  """Paints a vehicle with its windows."""
  width = 1.85 if vehicle.length < 6 else 2.4
  canvas.polygon(box(vehicle.centre, vehicle.along, vehicle.length, width), vehicle.colour, VEHICLE)
  for at, size in ((0.17, 0.13), (-0.32, 0.09)):
    middle = vehicle.centre + vehicle.along * (vehicle.length * at)
    glass = vehicle.colour * 0.2 + 0.06
    canvas.colour(box(middle, vehicle.along, vehicle.length * size, width * 0.8), glass)


def paint_pool(rng, canvas, centre, along, deck):
  """Paints a pool, angular or round, in its deck."""
  length, width = rng.uniform(6, 10), rng.uniform(3.5, 5)
  canvas.polygon(box(centre, along, length + 3, width + 3), deck, BACKGROUND)
  blue = np.array((0.12, 0.56, 0.72)) * rng.uniform(0.85, 1.15) + rng.uniform(-0.04, 0.1, 3)
  if rng.random() < 0.5:
    shape = box(centre, along, length, width)
  else:
    shape = frame(centre, along, _STAR * (length / 2, width / 2))
  canvas.polygon(shape, blue, POOL)
  canvas.colour(centre + (shape - centre) * (0.7, 0.7) + 0.2, blue * 1.08)


def paint_roads(rng, canvas, streets, road, pave, shape):
  """Paints pavements, roads and, where they can be seen, markings."""
  radius, half = canvas.view.radius + 6, streets.half
  numbers = streets.numbers(radius)
  down = np.array((0.0, 1.0))
  walk = rng.random() < 0.6
  for value, colour, extra in ((BACKGROUND, pave, 1.4), (ROAD, road, 0.0)):
    if value == BACKGROUND and not walk:
      continue
    for k in numbers:
      canvas.polygon(streets.strip(k, half + extra, radius), colour, value)
    for at in streets.cross:
      middle = np.array((at, 0.0))
      canvas.polygon(box(middle, down, 2 * radius, 2 * (half + extra)), colour, value)
  for _ in range(rng.integers(0, 5)):  # mended places
    k, s = rng.choice(numbers), rng.uniform(-radius, radius)
    spot = streets.beside(k, s, rng.uniform(-0.5, 0.5) * half)[0]
    patch = box(spot, streets.heading(s), rng.uniform(2, 9), half * 0.8)
    canvas.colour(patch, road * rng.uniform(0.88, 1.1))
  paint = np.array(((0.86, 0.85, 0.82), (0.83, 0.68, 0.28))[rng.integers(2)])
  thick = max(0.22, 0.7 / canvas.view.pixels)
  colour = road + (paint - road) * rng.uniform(0.5, 0.95)
  long, edges = 3.0 if rng.random() < 0.7 else 6.2, rng.random() < 0.4
  if rng.random() < 0.25 or canvas.view.pixels < 2:
    return
  for k in numbers:
    spots = streets.beside(k, np.arange(-radius, radius, 6.0), 0)
    for spot in spots[canvas.view.sees(spots, 3, shape)]:
      if all(abs(spot[0] - at) > half + long / 2 for at in streets.cross):
        canvas.colour(box(spot, streets.heading(spot[0]), long, thick), colour)
    for side in (-1, 1) if edges and not streets.cross else ():
      canvas.colour(streets.strip(k, thick / 2, radius, side * (half - 0.4)), colour)
