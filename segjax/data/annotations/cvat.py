"""CVAT's XML "for images": polygons, masks, boxes and ellipses, with layers."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from collections import Counter
from pathlib import Path

from segjax.data.annotations.shapes import (
  SPLITS,
  Annotations,
  Picture,
  Shape,
  ellipse,
  expecting,
  not_drawn,
  polygon,
  rectangle,
  runs,
)
from segjax.errors import UserError

AREAS = ("polygon", "mask", "box", "ellipse")


def read(source):
  """Reads `annotations.xml`; classes in the order of the project's labels.

  `z_order` is the layer. Polylines, points, cuboids and skeletons are counted in a note.
  """
  file = source / "annotations.xml" if source.is_dir() else source
  if not file.is_file():
    raise UserError(f'no {file.absolute()}; expected CVAT\'s export "CVAT for images"')
  try:
    root = xml.parse(file).getroot()
  except xml.ParseError as error:
    raise UserError(f"{file}: not XML ({error})") from None
  if root.tag != "annotations" or root.find("track") is not None:
    raise UserError(f'{file}: expected CVAT\'s export "CVAT for images", which has no tracks')
  names = [n.text or "" for n in root.findall("./meta//labels/label/name")]
  pictures, left = [], Counter()
  for image in root.findall("image"):
    where = f"{file}: image {image.get('name')!r}"
    with expecting("CVAT's XML", where):
      size = (int(image.attrib["height"]), int(image.attrib["width"]))
      shapes = [_shape(node, where) for node in image if node.tag in AREAS]
      name, subset = image.attrib["name"], image.get("subset", "").lower()
    left.update(n.tag for n in image if n.tag not in (*AREAS, "tag"))
    pictures.append(Picture(Path(name), tuple(shapes), size, SPLITS.get(subset, "")))
  used = {s.name for p in pictures for s in p.shapes}
  names = tuple(dict.fromkeys([*names, *sorted(used)]))
  return Annotations(names, tuple(pictures), not_drawn("shapes without an area", left))


def _shape(node, where):
  name, layer = node.attrib["label"], int(node.get("z_order", 0))
  where, get = f"{where}, {node.tag}", lambda *keys: [float(node.attrib[k]) for k in keys]
  turned = float(node.get("rotation", 0))
  if node.tag == "mask":
    counts = [int(n) for n in node.attrib["rle"].split(",")]
    left, top, width, height = (int(n) for n in get("left", "top", "width", "height"))
    pixels = runs(counts, (height, width), where)
    return Shape(name, pixels=pixels, corner=(top, left), layer=layer)
  if node.tag == "polygon":
    corners = polygon([p.split(",") for p in node.attrib["points"].split(";")], where)
  elif node.tag == "ellipse":
    corners = ellipse(*get("cx", "cy", "rx", "ry"), degrees=turned)
  else:
    x0, y0, x1, y1 = get("xtl", "ytl", "xbr", "ybr")
    corners = rectangle(x0, y0, x1 - x0, y1 - y0, degrees=turned)
  return Shape(name, (corners,), layer=layer)
