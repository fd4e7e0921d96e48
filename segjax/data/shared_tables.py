"""Label tables that several data sets share."""

from __future__ import annotations

from segjax.data.labels import LabelTable

ROAD = LabelTable((("not_road", (0, 0, 0)), ("road", (255, 0, 255))))
# Four classes of a road, which drawn scenes and CamVid share.
FOUR = LabelTable(
  (
    ("other", (0, 0, 0)),
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("vehicle", (0, 0, 142)),
  )
)
# Parts of a road scene that lie upon each other; a pixel may be of several.
OVERLAPPING = LabelTable(
  (
    ("drivable", (128, 64, 128)),
    ("lane_marking", (255, 255, 255)),
    ("shadow", (0, 90, 255)),
    ("vehicle", (230, 60, 0)),
  ),
  overlapping=True,
)
# Five kinds of objects and the rest.
OBJECTS = LabelTable(
  (
    ("Background", (0, 0, 0)),
    ("Building", (128, 0, 0)),
    ("Tree", (128, 128, 0)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (192, 128, 64)),
    ("Road", (128, 64, 128)),
  )
)
# Flooded land, which drawn scenes and FloodNet share.
FLOODNET = LabelTable(
  (
    ("Background", (0, 0, 0)),
    ("Building", (0, 0, 255)),
    ("Road", (0, 255, 0)),
    ("Water", (0, 255, 255)),
    ("Tree", (255, 0, 0)),
    ("Vehicle", (255, 0, 255)),
    ("Pool", (255, 255, 0)),
    ("Grass", (255, 255, 255)),
  )
)
