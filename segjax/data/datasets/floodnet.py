"""FloodNet: flooded land from a drone."""

from __future__ import annotations

from segjax.data import files, lists, masks
from segjax.data.labels import LabelTable
from segjax.data.shared_tables import FLOODNET

# The flooded buildings and roads are darker, the others have the colours of FLOODNET.
FLOODNET_PUBLIC = LabelTable(
  (
    ("Background", (0, 0, 0)),
    ("Building-flooded", (0, 0, 128)),
    ("Building-non-flooded", (0, 0, 255)),
    ("Road-flooded", (0, 128, 0)),
    ("Road-non-flooded", (0, 255, 0)),
    *FLOODNET.classes[3:],
  )
)
FLOODNET_MERGED = (0, 1, 1, 2, 2, 3, 4, 5, 6, 7)  # number in the public masks -> FLOODNET


def floodnet(split, *, folder="", merge_public=True):
  """FloodNet, flooded land from a drone: Rahnemoonfar et al., IEEE Access 2021.

  Either 8 classes in `<folder>/train/image/x.jpg` + `<folder>/train/mask/x.png`, or the public
  10 classes in `train/train-org-img/x.jpg` + `train/train-label-img/x_lab.png`. A grey or palette
  mask holds the class's number, an RGB mask its colour. The folder of "val" is `val/`, or `test/`
  where there is no `val/`; "test" needs both.

  Args:
    split: "train", "val" or "test".
    folder: folder that contains `train/`; empty for `$SEGJAX_DATA/floodnet`.
    merge_public: the public layout's 10 classes become the 8, flooded and dry buildings (roads)
      one class; otherwise they stay 10.
  """
  root = files.data_folder(folder, "floodnet")
  there = all((root / name).is_dir() for name in ("val", "test"))
  lists.require_test(split, there, root.absolute(), "expected folders val and test in it")
  base = files.first_folder(root, ("val", "test") if split == "val" else (split,))
  public = not (base / "image").is_dir() and (base / f"{base.name}-org-img").is_dir()
  labels, numbers = FLOODNET, tuple(range(len(FLOODNET)))
  if public:
    images = files.images_by_stem(base / f"{base.name}-org-img")
    label_files = files.images_by_stem(base / f"{base.name}-label-img", strip="_lab")
    labels = FLOODNET if merge_public else FLOODNET_PUBLIC
    numbers = FLOODNET_MERGED if merge_public else tuple(range(len(FLOODNET_PUBLIC)))
  else:
    images, label_files = files.images_by_stem(base / "image"), files.images_by_stem(base / "mask")
  values = dict(enumerate(numbers))

  def read_label(file):
    return masks.read_mask(file, labels, values)

  return files.paired(labels, root, list(images), images, label_files, read_label)
