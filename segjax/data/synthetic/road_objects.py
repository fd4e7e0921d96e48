"""Paints the objects along the drawn road: walls are planes, trees billboards, vehicles boxes."""

from math import cos, sin

import numpy as np
from PIL import Image, ImageDraw

from segjax.data.synthetic.road_layout import Tree, Vehicle, Wall
from segjax.data.synthetic.road_paint import phase, sample, stamp
from segjax.data.synthetic.road_world import BUILDING, VEGETATION, VEHICLE

_GLASS, _DARK = np.array((0.13, 0.15, 0.18)), np.array((0.07, 0.07, 0.07))
_PLATE = np.array((0.75, 0.75, 0.7))


def _wall_area(camera, wall, roof, rows):
  """Returns the columns that see a wall, and there the part in [0,1) along it and the distance z.

  Also the image rows between which it lies; None if nothing of it is seen.
  """
  start, end = wall.start.tolist(), wall.end.tolist()
  dx, dz = end[0] - start[0], end[1] - start[1]
  with np.errstate(divide="ignore", invalid="ignore"):
    part = (camera.slope * start[1] - start[0]) / (dx - camera.slope * dz)
  z = start[1] + part * dz
  columns = np.flatnonzero((part >= 0) & (part < 1) & (z > 1))
  if not columns.size:
    return None
  c = slice(columns[0], columns[-1] + 1)
  part, z = part[c], np.maximum(z[c], 1)
  scale, eaves = z / camera.focal, wall.metres - camera.height
  first = max(int((camera.horizon[c] - (eaves + roof * 3) / scale).min()), 0)
  last = min(int((camera.horizon[c] + camera.height / scale).max()) + 1, rows)
  return (c, part, z, first, last) if last > first else None


def _paint_wall(canvas, wall):
  """Paints a wall, with a gable if it has one and rows of windows if it is a building's."""
  _, classes, camera, light, tiles = canvas
  metres, seed = wall.metres, wall.seed
  roof = 0.25 if wall.hedge else wall.roof
  seen = _wall_area(camera, wall, roof, len(classes))
  if seen is None:
    return
  c, part, z, first, last = seen
  s = part * float(np.hypot(*(wall.end - wall.start)))
  if wall.hedge:
    peak = metres + roof * tiles[1][seed & 255, (s * 16).astype(int) & 255]
  else:
    peak = metres + roof * (1 - np.abs(2 * part - 1))
  row = np.arange(first, last, dtype=np.float32)[:, None] + np.float32(0.5)
  level = np.float32(camera.height) - (row - camera.horizon[c]) * (z / camera.focal)
  mask = (level >= 0) & (level < peak)  # level: metres above ground
  grain, area = sample(tiles[1], s, level, 6), (slice(first, last), c)
  if wall.hedge:
    value = 0.85 + 0.2 * grain + level * (0.15 / metres)
  else:
    value = 1 + 0.04 * grain - np.float32(0.15) * (level < 0.5)
    if roof:
      value[level > metres] *= 0.5
  kind = VEGETATION if wall.hedge else BUILDING
  stamp(canvas, area, mask, colour=wall.colour.tolist(), value=value, z=z, kind=kind)
  if not wall.hedge and metres > 2.6:
    bay, storey = 1.8 + (seed & 15) * 0.1, 2.8 + (seed >> 4 & 3) * 0.2
    a, b = s / bay, level * (1 / storey)
    column, floor = np.floor(a), np.floor(b)
    glass = mask & (np.abs(a - column - 0.5) < 0.17 + (seed >> 6 & 3) * 0.06)
    glass &= (np.abs(b - floor - 0.55) < 0.25) & (level < metres - 0.4)
    value = 0.15 + 0.3 * phase(column * 7 + floor * 13 + seed % 11, 2.7)
    sky = light.sky[1].ravel().tolist()
    stamp(canvas, area, glass, colour=sky, value=value, z=z, kind=kind)


def _paint_tree(canvas, tree):
  """Paints a trunk under a ragged crown; one tree in four is a conifer."""
  _, classes, camera, light, tiles = canvas
  x, z, trunk, radius, crown, colour, seed = tree
  pixel = z / camera.focal  # metres per pixel
  column, foot = camera.project(x, 0, z)
  middle = foot - (trunk + crown * 0.85) / pixel
  reach = 1.3 * radius / pixel
  box = np.array((middle - 1.3 * crown / pixel, foot + 1, column - reach, column + reach + 1))
  box = np.clip(box, 0, (*[len(classes)] * 2, *[classes.shape[1]] * 2)).astype(int)
  area = (slice(*box[:2]), slice(*box[2:]))
  a = ((np.arange(*box[2:]) + 0.5 - column) * pixel).astype("f4")
  b = ((np.arange(*box[:2]) + 0.5 - middle) * pixel).astype("f4")[:, None]

  def noise(tile, down, across):
    return tile[np.ix_((down + seed).astype(int) & 255, across.astype(int) & 255)]

  lobes = noise(tiles[1], b[:, 0] * 14, a * 14)
  broad = noise(tiles[0], b[:, 0] * 40 / crown, a * 40 / radius)
  taper = 1
  if seed % 4 == 0:
    taper = np.clip((b / crown + np.float32(1.1)) / 1.6, 0.05, 2)
  above = b < (foot - middle) * pixel
  leaf = (a / (radius * taper)) ** 2 + (b / crown) ** 2 + 0.22 * broad + 0.12 * lobes < 1
  value = 0.85 + 0.22 * lobes + 0.12 * broad - 0.3 * b / crown + a * (0.12 * light.sun[0] / radius)
  if trunk:
    stem, brown = (np.abs(a) < 0.06 + 0.02 * trunk) & (b > -0.3 * crown) & above, (0.27, 0.21, 0.16)
    stamp(canvas, area, stem, colour=brown, value=1 + 0.2 * lobes, z=z, kind=VEGETATION)
  value = np.maximum(value, 0.25)
  stamp(canvas, area, leaf & above, colour=colour.tolist(), value=value, z=z, kind=VEGETATION)


def _box_faces(low, high, ends, inset, colours):
  """Faces of a box between two levels that narrows upwards.

  Args:
    low: its bottom, metres above ground.
    high: its top.
    ends: where it starts and where it ends along the vehicle, (at the bottom, at the top) each.
    inset: its half width at the top.
    colours: colours of front, sides, back and top.
  """
  front, side, back, top = colours
  (b0, b1), (f0, f1) = ends
  return [
    ([(b0, -1, low), (b0, 1, low), (b1, inset, high), (b1, -inset, high)], back),
    ([(f0, 1, low), (f0, -1, low), (f1, -inset, high), (f1, inset, high)], front),
    ([(b0, 1, low), (f0, 1, low), (f1, inset, high), (b1, inset, high)], side),
    ([(f0, -1, low), (b0, -1, low), (b1, -inset, high), (f1, -inset, high)], side),
    ([(b1, -inset, high), (b1, inset, high), (f1, inset, high), (f1, -inset, high)], top),
  ]


def _trim_faces(waist, length):
  """Wheels, lamps and number plates."""
  faces = []
  for side in (-1, 1):
    for axle in (-0.62, 0.6):
      angles = (np.linspace(0, 2 * np.pi, 9)[:-1] * side).tolist()
      wheel = [(axle + cos(t) * 0.66 / length, side, 0.33 + sin(t) * 0.33) for t in angles]
      faces.append((wheel, _DARK))
    for end, paint in ((-1, (0.6, 0.06, 0.05)), (1, (0.95, 0.93, 0.82))):
      outline = ((0.95, 0.65), (0.6, 0.65), (0.6, 0.85), (0.95, 0.85))[:: side * end]
      lamp = [(end, side * a, b * waist) for a, b in outline]
      faces.append((lamp, np.array(paint)))
  for end in (-1, 1):
    outline = ((-0.3, 0.5), (0.3, 0.5), (0.3, 0.65), (-0.3, 0.65))
    faces.append(([(end, -a * end, b * waist) for a, b in outline], _PLATE))
  return faces


def _vehicle_faces(vehicle):
  """Lists (corners, colour) from below to above, clockwise as seen from outside.

  A corner is (along in [-1,1] from tail to nose, across in [-1,1] to its right, metres above
  ground).
  """
  tall, colour = vehicle.tall, vehicle.colour
  van, waist = tall > 1.8, tall * 0.6
  roof = ((-0.98, -0.95), (0.75, 0.62)) if van else ((-0.85, -0.62), (0.5, 0.2))
  top = ((roof[0][1],) * 2, (roof[1][1],) * 2)
  body = (colour * 0.9, colour * 0.8, colour * 0.9, colour * 1.1)
  cabin = (_GLASS, colour * 0.8 if van else _GLASS, _GLASS, colour * 1.1)
  return [
    *_box_faces(0.0, 0.35, ((-0.8, -0.8), (0.8, 0.8)), 0.9, [_DARK] * 4),
    *_box_faces(0.28, waist, ((-1, -0.98), (1, 0.96)), 0.97, body),
    *_trim_faces(waist, vehicle.length),
    *_box_faces(waist, tall - 0.05, roof, 0.8, cabin),
    *_box_faces(tall - 0.05, tall, top, 0.8, [colour] * 4),
  ]


def _paint_vehicle(canvas, vehicle):
  """Paints a body and a cabin as convex boxes whose visible faces turn to the camera."""
  classes, camera, heading = canvas.classes, canvas.camera, vehicle.heading
  turn = (-1 if vehicle.oncoming else 1) / float(np.hypot(heading, 1))
  half, right = turn * vehicle.length / 2, turn * 0.9
  side = float(heading) * turn * vehicle.length / 2

  def corner(along, across, level):
    x = vehicle.x + side * along + right * across
    return camera.project(x, level, vehicle.z + half * along - right * heading * across)

  faces = [([corner(*p) for p in points], paint) for points, paint in _vehicle_faces(vehicle)]
  points = np.array([p for quad, _ in faces for p in quad])
  first = np.maximum(np.floor(points.min(0)).astype(int), 0)
  last = np.minimum(points.max(0).astype(int) + 2, classes.shape[::-1])
  if (last <= first).any():
    return
  stencil = Image.new("L", tuple((last - first).tolist()))
  draw, palette = ImageDraw.Draw(stencil), [np.zeros(3)]
  for quad, paint in faces:
    (a, b), (c, d), (e, f) = quad[:3]
    if (c - a) * (f - b) < (d - b) * (e - a):  # clockwise: seen from outside
      palette.append(paint)
      draw.polygon([(u - first[0], v - first[1]) for u, v in quad], fill=len(palette) - 1)
  part = np.asarray(stencil)
  area = (slice(first[1], last[1]), slice(first[0], last[0]))
  paint = np.array(palette, "f4").T.take(part, axis=1)
  stamp(canvas, area, part > 0, colour=paint, value=1, z=vehicle.z, kind=VEHICLE)


def paint_things(canvas, things):
  """Paints things, (distance, what) each, from far to near."""
  painters = {Wall: _paint_wall, Tree: _paint_tree, Vehicle: _paint_vehicle}
  for _, thing in sorted(things, key=lambda pair: -pair[0]):
    painters[type(thing)](canvas, thing)
