"""Synthetic nadir views of a suburb after a flood, with exact labels.

A street grid in metres is turned, scaled and painted from the ground up: earth and meadow,
plots, roads, water, then the objects on them. Muddy water often has the tone of the earth or of
the roads, and roads that of roofs and drives, so that colour does not give the classes away.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from segjax.data.synthetic.aerial_objects import (
  BACKGROUND,
  CARS,
  GRASS,
  WATER,
  Canvas,
  House,
  Light,
  Streets,
  Tree,
  Vehicle,
  View,
  box,
  paint_house,
  paint_pool,
  paint_roads,
  paint_shadow,
  paint_tree,
  paint_vehicle,
  rgb,
)

EARTH = np.array([(0.55, 0.46, 0.35), (0.62, 0.56, 0.46), (0.46, 0.37, 0.28), (0.5, 0.47, 0.4)])
MEADOW = np.array([(0.36, 0.43, 0.22), (0.46, 0.47, 0.27), (0.29, 0.37, 0.19), (0.53, 0.5, 0.32)])
PAVING = np.array([(0.47, 0.47, 0.48), (0.6, 0.58, 0.54), (0.36, 0.36, 0.38), (0.54, 0.5, 0.45)])
ROOFS = np.array(
  [
    (0.44, 0.42, 0.41),
    (0.62, 0.61, 0.6),
    (0.45, 0.34, 0.28),
    (0.58, 0.34, 0.26),
    (0.32, 0.33, 0.36),
    (0.8, 0.79, 0.77),
  ]
)
CROWNS = np.array([(0.25, 0.36, 0.16), (0.2, 0.3, 0.17), (0.36, 0.41, 0.2), (0.31, 0.33, 0.19)])
# Strength of the texture in each class: fine, middle and coarse grain.
GRAIN = np.array(
  [
    (0.05, 0.06, 0.10),  # Background
    (0.03, 0.02, 0.03),
    (0.02, 0.02, 0.05),
    (0.005, 0.02, 0.07),  # Water
    (0.14, 0.10, 0.06),
    (0.02, 0.0, 0.0),
    (0.03, 0.03, 0.02),  # Pool
    (0.06, 0.06, 0.10),
  ],
  np.float32,
)


def draw_aerial(seed: int, index: int, *, height: int = 256, width: int = 256):
  """Draws one aerial view, a pure function of its arguments.

  Args:
    seed: names the data set, >= 0.
    index: number of the scene in it, >= 0.
    height: rows, pixels.
    width: columns, pixels; the shorter side is 45 to 100 m long.

  Returns:
    image u8[H,W,3], RGB, and classes u8[H,W], indices into `FLOODNET`. Markings are Road;
    drives, pavements and bare earth are Background.
  """
  rng = np.random.default_rng((seed, index))
  view, light = _draw_view(rng, height, width), _draw_light(rng)
  streets, flood = _draw_streets(rng), _draw_flood(rng, view, (height, width))
  grains = [_cloud(rng, (height, width), view, size) for size in (0.45, 1.4, 7)]
  image, classes = _paint_earth(rng, view, (height, width))
  things = _draw_plots(rng, _canvas(view, image, classes), streets, flood)
  planes, values = _split(image), np.array(classes)
  _paint_water(rng, planes, values, flood, grains[2])
  mask = Image.new("L", (width, height))
  draw = ImageDraw.Draw(mask)
  for thing in things:
    paint_shadow(draw, view, light, thing)
  planes *= 1 - np.asarray(mask) * np.float32((1 - light.shade) / 255)
  image, classes = _merge(planes), Image.fromarray(values)
  canvas = _canvas(view, image, classes)
  for thing in things:
    if isinstance(thing, House):
      paint_house(rng, canvas, light, thing)
    elif isinstance(thing, Vehicle):
      paint_vehicle(canvas, thing)
    else:
      paint_tree(rng, canvas, light, thing)
  return _photograph(rng, light, image, np.array(classes), grains)


def _canvas(view, image, classes):
  return Canvas(view, ImageDraw.Draw(image), ImageDraw.Draw(classes))


def _split(image):
  """RGB image -> f32[3,H,W] in 0..255; planes are several times faster than f32[H,W,3]."""
  return np.array([np.asarray(image.getchannel(i)) for i in range(3)], np.float32)


def _merge(planes):
  np.clip(planes, 0, 255, out=planes)
  return Image.merge("RGB", [Image.fromarray(plane) for plane in planes.astype(np.uint8)])


def _draw_view(rng, height, width):
  pixels = min(height, width) / rng.uniform(45, 100)
  angle = rng.uniform(0, 2 * np.pi)
  turn = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
  radius = np.hypot(height, width) / 2 / pixels
  return View(pixels, turn.T * pixels, np.array((width / 2, height / 2)), radius)


def _draw_light(rng):
  angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 1.1)
  shade = rng.uniform(0.42, 0.65) if rng.random() < 0.7 else rng.uniform(0.8, 0.95)
  tint = rng.uniform(0.78, 1.22) * (1 + rng.normal(0, 0.04, 3))
  shadow = np.array((np.cos(angle), np.sin(angle))) * length
  return Light(shadow, shade, tint.astype(np.float32))


def _draw_streets(rng):
  swing = rng.uniform(2, 11) if rng.random() < 0.6 else 0.0
  wind = swing, 2 * np.pi / rng.uniform(90, 170), rng.uniform(0, 2 * np.pi)
  cross = (rng.uniform(-45, 45),) if rng.random() < 0.45 else ()
  pitch = rng.uniform(56, 74)
  return Streets(rng.uniform(2.8, 4.5), pitch, rng.uniform(-0.5, 0.5) * pitch, wind, cross)


def _cloud(rng, shape, view, size):
  """Smooth noise f32[H,W] of variance about 1 whose grains are `size` metres wide."""
  step = max(size * view.pixels, 1.0)
  cells = [int(np.ceil(n / step)) + 1 for n in shape]
  own = np.random.default_rng(rng.integers(1 << 32))  # `rng` continues alike at every image size
  noise = Image.fromarray(own.standard_normal(cells, dtype=np.float32))
  if step == 1:
    return np.asarray(noise)[: shape[0], : shape[1]]
  part = (0, 0, shape[1] / step, shape[0] / step)
  return np.asarray(noise.resize(shape[::-1], Image.Resampling.BICUBIC, box=part)) * 1.3


def _draw_flood(rng, view, shape):
  """Depth of the water f32[H,W] in metres, dry where negative."""
  rough = _cloud(rng, shape, view, 9) * np.float32(0.12)
  kind = rng.choice(3, p=(0.25, 0.3, 0.45))  # dry, river, flooded lowland
  if kind == 0:
    return np.full(shape, -9, np.float32)
  if kind == 2:
    return (
      _cloud(rng, shape, view, rng.uniform(25, 45)) * np.float32(0.6)
      + rough
      - rng.uniform(-0.35, 0.35)
    )
  row, column = np.ogrid[: shape[0], : shape[1]]
  angle, swing = rng.uniform(0, np.pi), rng.uniform(2, 9)
  x = (column - shape[1] / 2) / np.float32(view.pixels)
  y = (row - shape[0] / 2) / np.float32(view.pixels)
  along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
  across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
  bend = np.sin(along * np.float32(rng.uniform(0.05, 0.1)) + np.float32(rng.uniform(0, 6)))
  distance = np.abs(across - np.float32(rng.uniform(-20, 20)) - np.float32(swing) * bend)
  return (np.float32(rng.uniform(5, 14)) - distance) * np.float32(0.25) + rough


def _paint_earth(rng, view, shape):
  """Bare earth with meadow on a random share of it."""
  earth, meadow = EARTH[rng.integers(4)], MEADOW[rng.integers(4)]
  patch = _cloud(rng, shape, view, 14) + _cloud(rng, shape, view, 2.5) * np.float32(0.25)
  green = patch > rng.uniform(-1.4, 1.4)
  colours = [rgb(c) for c in np.array((earth, meadow)) * rng.uniform(0.9, 1.1, (2, 1))]
  dry, lush = (Image.new("RGB", shape[::-1], c) for c in colours)
  image = Image.composite(lush, dry, Image.fromarray(green.astype(np.uint8) * np.uint8(255)))
  return image, Image.fromarray(np.where(green, np.uint8(GRASS), np.uint8(BACKGROUND)))


def _draw_plots(rng, canvas, streets, flood):
  """Paints plots, roads, drives and pools; returns the things on them, from low to high."""
  view, radius = canvas.view, canvas.view.radius + 6
  road, pave = PAVING[rng.integers(4, size=2)] * rng.uniform(0.85, 1.1, (2, 1))
  lawns = MEADOW[rng.integers(4, size=2)] * rng.uniform(0.85, 1.15, (2, 1))
  roofs = ROOFS[rng.integers(6, size=3)] * rng.uniform(0.9, 1.1, (3, 1))
  if rng.random() < 0.4:
    roofs[0] = road * rng.uniform(0.95, 1.1)
  built, pools = rng.choice((0.25, 0.75, 0.95)), rng.choice((0.0, 0.15, 0.4))
  things = []
  for k in streets.numbers(radius):
    for side in (-1, 1):
      s = -radius + rng.uniform(0, 15)
      while s < radius:
        breadth = rng.uniform(15, 24)
        plot = Plot(k, side, s + breadth / 2, breadth)
        s += breadth
        lawn = lawns[rng.integers(2)] * rng.uniform(0.88, 1.12)
        if rng.random() < built and all(abs(plot.s - at) > breadth / 2 + 4 for at in streets.cross):
          paint = dict(lawn=lawn, pave=pave, roofs=roofs, pools=pools)
          things += _draw_plot(rng, canvas, streets, plot, flood, **paint)
  paint_roads(rng, canvas, streets, road, pave, flood.shape)
  things += _draw_traffic(rng, streets, view, flood)
  houses = np.array([t.centre for t in things if isinstance(t, House)]).reshape(-1, 2)
  things += _draw_trees(rng, view, streets, houses)
  order = {Vehicle: 0, House: 1, Tree: 2}
  seen = view.sees(np.array([t.centre for t in things]).reshape(-1, 2), 13, flood.shape)
  things = [thing for thing, near in zip(things, seen, strict=True) if near]
  return sorted(things, key=lambda thing: order[type(thing)])


class Plot(NamedTuple):
  """A plot beside a street."""

  k: int  # street
  side: int  # of the street, -1 or 1
  s: float  # of its middle
  breadth: float  # along the street, metres


def _draw_plot(rng, canvas, streets, plot, flood, *, lawn, pave, roofs, pools):
  """Paints a plot's lawn, drive and pool; returns house and parked vehicles."""
  along, depth = streets.heading(plot.s), streets.pitch / 2 - streets.half - 1.5
  across = np.array((-along[1], along[0])) * plot.side
  start = streets.beside(plot.k, plot.s, 0)[0] + across * (streets.half + 1.5)
  if not canvas.view.sees((start + across * depth / 2)[None], depth, flood.shape)[0]:
    return []
  if rng.random() < 0.75:
    ground = box(start + across * depth / 2, along, plot.breadth - 0.6, depth)
    canvas.polygon(ground, lawn, GRASS)
    if rng.random() < 0.4:  # mown in stripes
      for at in np.arange(-plot.breadth / 2 + 1, plot.breadth / 2 - 1, 3):
        middle = start + across * depth * 0.75 + along * (at + 0.7)
        canvas.colour(box(middle, along, 1.5, depth * 0.45), lawn * 1.07)
  size = np.array((rng.uniform(10, 15), rng.uniform(8, 11.5)))
  size[0] = min(size[0], plot.breadth - 3)
  back = rng.uniform(4, 7) + size[1] / 2
  middle = start + across * back + along * rng.uniform(-1, 1)
  if _depth(flood, canvas.view, middle[None])[0] > 1.0:  # in the river
    return []
  roof, height = roofs[rng.integers(3)] * rng.uniform(0.92, 1.08), rng.uniform(3.5, 6.5)
  hip = float(rng.choice((0.0, 0.55, 1.0)))
  things = [House(middle, along, *size, height, hip, roof)]
  door = rng.choice((-1, 1)) * size[0] * 0.28
  if rng.random() < 0.5:  # an L-shaped house
    wing = middle + along * door - across * size[1] * 0.3
    things.append(House(wing, across, size[1] * 0.95, size[0] * 0.42, height * 0.9, hip, roof))
  reach = np.linalg.norm(middle - start) + 1.5
  drive = start + across * (reach / 2 - 1.5) + along * door
  canvas.polygon(box(drive, across, reach, 3.4), pave, BACKGROUND)
  if rng.random() < 0.55:
    spot = start + across * 1.5 + along * (door + rng.uniform(-0.4, 0.4))
    things.insert(0, Vehicle(spot, across, rng.uniform(4.0, 5.1), CARS[rng.integers(5)]))
  if rng.random() < 0.3:  # a shed
    spot = start + across * (depth - 3) - along * door
    shed = *rng.uniform(2.5, 4.5, 2), 2.4, 0.0
    things.append(House(spot, along, *shed, roofs[rng.integers(3)]))
  if rng.random() < pools:
    spot = start + across * (back + size[1] / 2 + rng.uniform(4.5, 6)) + along * rng.uniform(-2, 2)
    paint_pool(rng, canvas, spot, along, pave * 1.1)
  return things


def _depth(flood, view, points):
  """Depth of the water at grid points f64[N,2]; outside the image that of the nearest pixel."""
  column, row = view.project(points).astype(int).T
  height, width = flood.shape
  return flood[row.clip(0, height - 1), column.clip(0, width - 1)]


def _draw_traffic(rng, streets, view, flood):
  """Vehicles on the roads, on the right side or parked at the kerb."""
  things, share = [], rng.choice((0.1, 0.5, 0.9))
  reach = view.radius + 6
  for k in streets.numbers(reach):
    for side in (-1, 1):
      s = np.cumsum(rng.uniform(9, 26, int(reach / 8))) - reach - rng.uniform(0, 12)
      s = s[(rng.random(len(s)) < share) & (s < reach)]
      lane = rng.choice((streets.half * 0.5, streets.half - 1.2), len(s), p=(0.4, 0.6))
      spots = streets.beside(k, s, side * lane)
      spots = spots[view.sees(spots, 6, flood.shape)]
      for spot in spots[_depth(flood, view, spots) < 0.4]:
        long = rng.uniform(4.0, 5.2) if rng.random() < 0.92 else rng.uniform(7, 10)
        colour = CARS[rng.integers(5)] * rng.uniform(0.85, 1.1)
        things.append(Vehicle(spot, streets.heading(spot[0]) * -side, long, colour))
  return things


def _draw_trees(rng, view, streets, houses):
  """Trees, alone and in clumps, beside roads and houses."""
  count = int(view.radius**2 / 225 * rng.uniform(0.25, 1.9))
  clumps = rng.uniform(-1, 1, (count, 2)) * (view.radius + 4)
  spots = clumps.repeat(rng.choice((1, 2, 5, 9), count, p=(0.4, 0.3, 0.2, 0.1)), 0)
  spots += rng.normal(0, 3.6, spots.shape)
  sizes = rng.uniform(1.3, 4.4, len(spots))
  apart = np.abs(spots[:, None] - houses).sum(-1).min(1, initial=99)
  free = streets.clear(spots, sizes * 0.5) & (apart > 6 + sizes)
  colours = CROWNS[rng.integers(4, size=2)] * rng.uniform(0.85, 1.2, (2, 1))
  colours = colours[rng.integers(2, size=len(spots))] * rng.uniform(0.85, 1.15, (len(spots), 1))
  return [Tree(*tree) for tree in zip(spots[free], sizes[free], colours[free], strict=True)]


def _paint_water(rng, planes, values, flood, grain):
  """Blends the water over the ground, thin at its edge."""
  wet = flood > 0
  if not wet.any():
    return
  tone = rng.choice(3, p=(0.4, 0.3, 0.3))  # as the earth, as paving, green or blue
  mud = (EARTH, PAVING, np.array(((0.3, 0.36, 0.3), (0.33, 0.42, 0.47))))[tone]
  mud = mud[rng.integers(len(mud))] * rng.uniform(0.85, 1.1) * 255
  thick = np.clip(flood * np.float32(rng.uniform(2, 6)), 0, 1) * np.float32(0.4)
  thick += wet * np.float32(0.55)
  glare = 1 + grain * np.float32(rng.uniform(0, 0.05))
  for i, tone in enumerate(mud.tolist()):
    planes[i] += (glare * np.float32(tone) - planes[i]) * thick
  values[wet] = WATER


def _photograph(rng, light, image, classes, grains):
  """Adds texture, tint, noise and blur; returns image u8[H,W,3] and classes."""
  texture = np.ones(classes.shape, np.float32)
  for size, grain in enumerate(grains):
    texture += GRAIN[:, size].take(classes) * grain
  noise = np.frombuffer(rng.bytes(classes.size), np.int8).reshape(classes.shape)
  noise = noise * np.float32(rng.uniform(0.01, 0.055))  # uniform: far faster to draw than normal
  planes = _split(image)
  for i, tint in enumerate(light.tint):
    planes[i] *= texture * tint
    planes[i] += noise
  blur = ImageFilter.BoxBlur(rng.uniform(0.3, 0.75))
  return np.asarray(_merge(planes).filter(blur)), classes
