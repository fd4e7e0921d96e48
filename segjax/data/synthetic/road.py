"""Synthetic road scenes seen from a car, with exact labels.

A flat world under a pinhole camera: every pixel below the horizon is cast onto the ground plane,
where the road is a curve with a width in metres; walls are vertical planes, trees are billboards
and vehicles are small boxes, painted from far to near into the image and the label alike. World
coordinates are metres, x to the right and z ahead of the camera. Colours are float in [0,1].

Sidewalks, walls and parking areas often share the road's tones, so that colour does not give the
road away.
"""

import numpy as np
from PIL import Image, ImageFilter

from segjax.data.synthetic import road_layout, road_objects, road_paint, road_world

_BAND = 64  # rows of ground painted at once; small blocks stay in the cache


def draw_road(seed: int, index: int, *, height: int = 256, width: int = 512):
  """Draws one road scene, a pure function of its arguments.

  Args:
    seed: names the data set, >= 0.
    index: number of the scene in it, >= 0.
    height: rows, pixels.
    width: columns, pixels.

  Returns:
    image u8[H,W,3], RGB, and classes u8[H,W], indices into `ROAD_CLASSES`. The drivable surface
    is `road` and the `lane_marking` on it.
  """
  return draw_road_and_shadows(seed, index, height=height, width=width)[:2]


def draw_road_and_shadows(seed: int, index: int, *, height: int = 256, width: int = 512):
  """`draw_road`, and bool[H,W]: where a shadow lies on the ground that is seen."""
  rng = np.random.default_rng((seed, index))
  camera, light = road_world.draw_camera(rng, height, width), road_world.draw_light(rng)
  road = road_world.draw_road_course(rng)
  tiles = road_paint.draw_tile(rng, (12,)), road_paint.draw_tile(rng, (40, 128))
  image, classes = np.zeros((3, height, width), "f4"), np.zeros((height, width), np.uint8)
  canvas = road_paint.Canvas(image, classes, camera, light, tiles)
  road_paint.paint_sky(rng, canvas)
  plan = road_layout.draw_layout(rng, road, light)
  shadow = road_paint.paint_shadows(camera, plan.shadows, height)
  ground = int(rng.integers(1 << 32))
  for row in range(max(int(camera.horizon.min()), 0), height, _BAND):
    rows = slice(row, row + _BAND)
    band = canvas._replace(image=image[:, rows], classes=classes[rows])
    same = np.random.default_rng(ground)  # every band draws the same random numbers
    road_paint.paint_ground(same, band, road, row=row, shadow=shadow[rows])
  road_paint.paint_skyline(rng, canvas)
  road_objects.paint_things(canvas, plan.things)
  noise = rng.standard_normal((height, width), dtype=np.float32) * rng.uniform(0.8, 3.5)
  pixels = np.empty((height, width, 3), np.uint8)
  for channel, plane in enumerate(image):
    lit = plane * (float(light.tint[channel, 0, 0]) * 255) + noise
    pixels[..., channel] = np.clip(lit, 0, 255, out=lit)
  shadows = (shadow >= 128) & np.isin(classes, road_world.ON_THE_GROUND)
  if rng.random() < 0.6:  # a sharp lens
    return pixels, classes, shadows
  blur = ImageFilter.BoxBlur(rng.uniform(0.2, 0.7))
  return np.asarray(Image.fromarray(pixels).filter(blur)), classes, shadows
