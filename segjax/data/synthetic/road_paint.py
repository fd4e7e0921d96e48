"""Paints the surroundings of the drawn road: sky, ground with its markings and shadows, skyline."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from segjax.data.synthetic import road_world as world


class Canvas(NamedTuple):
  """A picture in the making, or a band of its rows."""

  image: np.ndarray  # f32[3,H,W], linear in [0,1], before the light's tint
  classes: np.ndarray  # u8[H,W]
  camera: world.Camera
  light: world.Light
  tiles: tuple[np.ndarray, np.ndarray]  # smooth and fine noise, see draw_tile


class _Ground(NamedTuple):
  """The ground in each pixel of a band, f32[h,W] each."""

  x: np.ndarray  # metres
  z: np.ndarray  # metres
  lateral: np.ndarray  # metres to the right of the centre line
  beyond: np.ndarray  # metres to the drivable surface, negative on it
  along: np.ndarray  # metres along the road
  smooth: np.ndarray  # noise
  fine: np.ndarray  # noise


def draw_tile(rng, cells):
  """Periodic noise f32[256,256], zero mean, about unit deviation; one octave per entry."""
  total = np.zeros((256, 256), np.float32)
  for n in cells:
    grid = np.pad(rng.random((n, n), dtype=np.float32) - 0.5, 2, mode="wrap")
    total += Image.fromarray(grid).resize((256, 256), Image.BICUBIC, box=(2, 2, n + 2, n + 2))
  return total * np.float32(3.5 / len(cells) ** 0.5)


def sample(tile, x, z, metres):
  """Reads a tile of the given period at world positions."""
  scale = np.float32(256 / metres)
  index = ((x * scale).astype(np.int32) & 255) * 256 + ((z * scale).astype(np.int32) & 255)
  return tile.ravel().take(index)


def phase(x, period):
  """Position within a period, in [0,1)."""
  x = x * np.float32(1 / period)
  return x - np.floor(x)


def stamp(canvas, area, mask, *, colour, value, z, kind):
  """Paints `colour` f32[3] times `value` where `mask` bool[h,w] is set, in the haze of distance z.

  Works plane by plane: small blocks spare the page faults of large ones.
  """
  keep = np.exp(z * (-1 / canvas.light.visibility))
  value, fog = value * keep, 1 - keep
  horizon = canvas.light.sky[1].ravel().tolist()
  for plane, own, sky in zip(canvas.image, colour, horizon, strict=True):
    np.copyto(plane[area], value * own + sky * fog, where=mask)
  np.copyto(canvas.classes[area], np.uint8(kind), where=mask)


def paint_sky(rng, canvas):
  """Paints sky with a gradient and clouds down to the horizon's lowest row."""
  image, light = canvas.image, canvas.light
  height, width = min(int(canvas.camera.horizon.max()) + 2, image.shape[1]), image.shape[2]
  size = width // 4 + 1, height // 4 + 1
  cloud = light.cloud - 1.1
  for rows, columns, weight in ((6, 9, 1), (height // 8 + 1, width // 16 + 1, 0.3)):
    grid = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
    cloud = cloud + weight * np.asarray(grid.resize(size, Image.BICUBIC))
  cloud = Image.fromarray(np.clip(cloud * 2, 0, 0.85))
  cloud = np.asarray(cloud.resize((width, height), Image.BILINEAR))
  up = np.linspace(1, 0, height, dtype=np.float32)[:, None] ** 0.8
  sky = light.sky[0] * up + light.sky[1] * (1 - up)
  image[:, :height] = sky * (1 - cloud) + float(light.sky.mean() * 1.15) * cloud


def paint_skyline(rng, canvas):
  """Paints distant houses and trees that hide where the ground ends."""
  _, classes, camera, _, tiles = canvas
  height, width = classes.shape
  column = np.arange(width) * 512 // width
  for kind in rng.permutation((world.BUILDING, world.VEGETATION)):
    if kind == world.BUILDING:  # flat roofs of random height, each some columns wide
      step = np.cumsum(rng.random(512) < 0.06)[column]
      blocks = rng.random(512)[step]
      metres, colour = 14 * blocks - 3, world.WALLS[rng.integers(5, size=512)][step].T[:, None]
    else:
      metres = 4 + 2 * tiles[0][rng.integers(256), column % 256] + tiles[1][7, column * 3 % 256]
      colour = world.EARTH[0]
    edge = camera.horizon - metres * rng.uniform(0.6, 1.6) * camera.focal / world.FAR
    foot = camera.horizon + camera.height * camera.focal / world.FAR
    first, last = np.clip((int(edge.min()), int(foot.max()) + 2), 0, height)
    row = np.arange(first, last)[:, None] + 0.5
    mask = (row >= edge) & (row < foot)
    grain = tiles[1][np.ix_(row[:, 0].astype(int) * 3 & 255, column * 3 & 255)]
    area = slice(first, last), slice(None)
    value = 1 + (0.03 if kind == world.BUILDING else 0.15) * grain
    stamp(canvas, area, mask, colour=colour, value=value, z=world.FAR, kind=kind)


def paint_shadows(camera, outlines, height):
  """Rasterises ground outlines, world (x, z), to u8[height,W], 255 in full shadow."""
  stencil = Image.new("L", (len(camera.slope), height))
  draw = ImageDraw.Draw(stencil)
  for outline in outlines:
    x, z = np.asarray(outline).T
    draw.polygon(np.stack(camera.project(x, 0, np.maximum(z, 1)), 1).ravel().tolist(), fill=255)
  return np.asarray(stencil)


def _cast(canvas, road, row):
  """Casts a band of rows onto the ground; also returns how far below the horizon they lie."""
  camera, tiles = canvas.camera, canvas.tiles
  rows = np.arange(row, row + len(canvas.classes), dtype=np.float32)[:, None]
  below = rows + 0.5 - camera.horizon
  z = np.float32(camera.height * camera.focal) / np.maximum(below, 0.5)
  x = z * camera.slope
  np.minimum(z, 2 * world.FAR, out=z)
  along = z + np.float32(road.curve[1]) * x
  smooth, fine = sample(tiles[0], x, z, 50), sample(tiles[1], x, z, 9)
  return _Ground(x, z, road.lateral(x, z), road.outside(x, z), along, smooth, fine), below


def _ground_colours(rng):
  """Colours f32[7,3]: verge left, right, paved area, sidewalk, kerb, road, paint."""
  tone = world.ASPHALT[rng.integers(len(world.ASPHALT))] * rng.uniform(0.85, 1.15)

  def near(low, high):  # the road's tone, a little lighter or darker
    step = rng.choice((-0.8, 1)) * rng.uniform(low, high)
    return tone * (1 + step) * (1 + rng.normal(0, 0.02, 3))

  colour = np.empty((7, 3), np.float32)
  for i in (0, 1):
    earth = world.EARTH[rng.choice(4, p=(0.55, 0.16, 0.16, 0.13))] * rng.uniform(0.8, 1.15)
    colour[i] = near(0.15, 0.3) if rng.random() < 0.06 else earth
  slabs = 0.3 * tone + 0.7 * world.WALLS[rng.integers(len(world.WALLS))] * rng.uniform(1, 1.2)
  colour[2], colour[3] = near(0.15, 0.3), near(0.25, 0.4) if rng.random() < 0.12 else slabs
  colour[4] = tone * rng.uniform(1.35, 1.5) + 0.05
  colour[5:] = tone, (0.85, 0.85, 0.82) if rng.random() < 0.9 else (0.8, 0.66, 0.25)
  return colour


def _markings(rng, road, ground):
  """Where paint lies on the main road, bool[h,W]."""
  lateral, along = ground.lateral, ground.along
  paint = np.zeros(lateral.shape, bool)
  # Styles: none, dashed centre, solid centre, centre and edges.
  style = rng.choice(4, p=(0.25, 0.3, 0.2, 0.25))
  lanes = 1 if road.half < 2.9 else 2 if road.half < 5.4 else 3 + int(road.half > 6.2)
  wide, period, start = rng.uniform(0.06, 0.1), rng.uniform(6, 12), rng.uniform(0, 12)
  if style:
    dash = (phase(along + start, period) < rng.uniform(0.35, 0.6)) | (style == 2)
    for i in range(1, lanes):
      paint |= (np.abs(lateral - road.half * (2 * i / lanes - 1)) < wide) & dash
  if style == 3:
    paint |= np.abs(np.abs(lateral) - road.half + 0.35) < wide
  if road.side != 2:
    distance, half, slope = road.junction
    paint &= np.abs(ground.z - distance - slope * (ground.x - road.centre(distance))) > half + 2
  if rng.random() < 0.15:  # zebra crossing
    start = rng.uniform(7, 25)
    bars = (phase(lateral, 1.1) < 0.5) & (np.abs(lateral) < road.half - 0.3)
    paint = np.where((along > start) & (along < start + 3), bars, paint)
  return paint


def _materials(rng, road, ground, kerb):
  """Which row of the ground colours covers each pixel, u8[h,W]; kerb is a width in metres."""
  beyond, right = ground.beyond, ground.lateral > 0
  walks = rng.uniform(1.2, 3.5, 2) * (rng.random(2) < 0.75) * (kerb > 0)
  walk = np.where(right, np.float32(walks[1]), np.float32(walks[0])) + np.float32(kerb)
  material = right.astype(np.uint8)
  if rng.random() < 0.35:  # driveways and parking areas
    period, share = rng.uniform(12, 40), rng.uniform(0.15, 0.6)
    drive = phase(ground.along + rng.uniform(0, 40), period) < share
    material[drive & (right ^ (rng.random() < 0.5))] = 2
    walk = np.where(drive & (rng.random() < 0.3), np.float32(kerb), walk)
  material[beyond < walk] = 3
  material[beyond < kerb] = 4
  material[beyond < 0] = 5
  material[_markings(rng, road, ground) & (beyond < 0)] = 6
  return material


def _texture(rng, road, ground, material, rough):
  """Brightness f32[h,W]: grain as coarse as `rough` [7] says, slabs, wheel tracks, repairs."""
  lateral, along = ground.lateral, ground.along
  value = ground.fine * np.minimum(1, 22 / ground.z) * rough[material]
  value += 1 + ground.smooth * rng.uniform(0.03, 0.09)
  slab = rng.uniform(0.8, 2)  # joints between paving slabs
  joint = (phase(along, slab) < 0.06) | (phase(ground.beyond, slab) < 0.06)
  value[joint & (material == 3) & (ground.z < 25)] *= rng.uniform(0.7, 0.88)
  drivable = material >= 5
  wheels = np.cos(lateral * np.float32(np.pi * 2 / 1.75)) * rng.uniform(0, 0.05)
  value += wheels * drivable
  for _ in range(rng.integers(0, 3)):  # repairs
    u, s, a, b = rng.uniform((-road.half, 3, 0.4, 1), (road.half, 30, 1.4, 5)).tolist()
    patch = (np.abs(lateral - u) < a) & (np.abs(along - s) < b) & drivable
    value[patch] *= rng.uniform(0.85, 1.1)
  return value


def _light_ground(rng, pixels, canvas, ground, shadow):
  """Returns the ground under puddles, cast shadows u8[h,W] and the glare of a low sun."""
  camera, light = canvas.camera, canvas.light
  if rng.random() < 0.18:  # wet: darker, puddles mirror the sky
    wet = np.where(ground.beyond < 3, ground.smooth, -1)
    wet = np.clip((wet + rng.uniform(-0.8, 0.4)) * 3, 0, 1)
    mirror = wet * np.minimum(0.15 + ground.z / 50, 0.6)
    pixels = pixels * ((1 - 0.3 * wet) * (1 - mirror)) + light.sky[1] * mirror
  dark = shadow * np.float32(1 / 255)
  pixels *= 1 - dark * (1 - light.shade)
  if light.glare:
    glare = np.exp(-(((camera.slope - rng.uniform(-0.5, 0.5)) / 0.2) ** 2)) * light.glare
    pixels += (glare * np.minimum(ground.z / 30, 1) * (1 - 0.8 * dark)) * light.sky[1]
  return pixels


def paint_ground(rng, canvas, road, *, row, shadow):
  """Paints a band of rows below the horizon: verges, sidewalks, road, markings, shadows."""
  ground, below = _cast(canvas, road, row)
  colour = _ground_colours(rng)
  rough = np.array((0.16, 0.16, 0.13, 0.06, 0.05, 0.03, 0.05), np.float32) * rng.uniform(0.7, 1.3)
  kerb = rng.uniform(0.12, 0.22) if rng.random() < 0.8 else 0.0
  if not kerb:  # a frayed edge
    ground = ground._replace(beyond=ground.beyond + ground.fine * np.float32(0.05))
  material = _materials(rng, road, ground, kerb)
  value = _texture(rng, road, ground, material, rough)
  pixels = colour.T.take(material, axis=1) * value
  paint = material == 6
  worn = np.clip(rng.uniform(0, 0.45) + 0.2 * ground.fine[paint], 0, 0.7)
  pixels[:, paint] = pixels[:, paint] * (1 - worn) + colour[5][:, None] * worn
  pixels = _light_ground(rng, pixels, canvas, ground, shadow)
  keep = np.exp(ground.z * np.float32(-1 / canvas.light.visibility))
  pixels = pixels * keep + canvas.light.sky[1] * (1 - keep)
  np.copyto(canvas.image, pixels, where=below > 0)
  kinds = (world.GROUND,) * 3 + (world.SIDEWALK,) * 2 + (world.ROAD, world.LANE_MARKING)
  canvas.classes[:] = np.array(kinds, np.uint8)[material]
  canvas.classes[below <= 0] = world.SKY
