"""Copies arrays into the variables of a net, and reports the entries that did not fit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from segjax.errors import UserError
from segjax.models import lora
from segjax.weights.families import GATED, separated
from segjax.weights.names import place
from segjax.weights.torch_files import read_tensors

_HEAD = re.compile(r"^(head|aux_head|final_layer|seghead_extra|score16|score8)/")
# The first convolution on the image, of every net and backbone of the library.
_FIRST = re.compile(
  r"^(backbone/)?(conv1(_0)?|conv_stem|downsample_layers_0_0|down1/conv1|features_0(/0)?|"
  r"patch_embed(dings_0)?(_proj)?)/kernel$"
)
# Transposed convolutions that have PyTorch's names.
_TRANSPOSED = re.compile(
  r"^(decoder/blocks_\d+/block_1/conv|head/upscale_block_block_\d+/conv1)/kernel$"
)
_UP = re.compile(r"^up\d+/kernel$")  # of the U-Net: a convolution, or a transposed one


@dataclasses.dataclass(frozen=True)
class Report:
  """The result for every entry; names on the left of an arrow are the file's.

  Attributes:
    loaded: (entry, our name) of copied arrays.
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
  for SegFormer, those of the first publication, timm, torchvision and Hugging Face for DINOv2,
  DINOv3, ConvNeXt and Swin (see `families`), Hugging Face's for UPerNet, DPT and EoMT, those of
  segmentation_models_pytorch for FPN, Linknet, PSPNet and U-Net++, those of its authors for DDRNet,
  and the files of EfficientNet-Lite. A classifier's file fits the backbone of a segmentation net.
  A fused layer `qkv` is cut into entries `q`, `k` and `v` first. Kernels are transposed to Flax's
  layout; batch counters are left out. A prefix of the names, such as "module." or "model.", is
  taken off where the names fit without it, and so are the names that torch.compile and FSDP put in
  between; the report says so.

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
  tensors = separated(tensors)
  where = source if isinstance(source, str | Path) else "the state dict"
  if gated := next(filter(GATED.search, tensors), None):
    raise UserError(
      f"{where}: {gated} is of a gated MLP, as DINOv3's 'plus' and 7B and DINOv2's giant have; "
      "none of our nets has one; take the file of another, such as ViT-S, B or L"
    )
  prefix, found = place(tensors, ours, only, where)
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
  """Copies the variables of another of our nets; see `load_torch`, whose report this gives too.

  LoRA's additions become part of their kernels where the net has none.
  """
  collections = ("params", "batch_stats")
  if "params" in source and not _has_lora(variables["params"]):
    source = dict(source) | dict(params=lora.merge(source["params"]))
  theirs, ours = (
    flax.traverse_util.flatten_dict({k: v[k] for k in collections if k in v}, sep="/")
    for v in (source, variables)
  )
  entries = {key: (key if key in ours else None, np.asarray(v)) for key, v in theirs.items()}
  return _copy(entries, variables, ours, where, only)


def _has_lora(params):
  return any(path[-1] in lora.PARTS for path in flax.traverse_util.flatten_dict(params))


def _copy(entries, variables, ours, where, only):
  """Fits entries {key: (our path or None, array)} into the variables."""
  new, taken, loaded, unexpected, reshaped, other, adapted = {}, {}, [], [], [], [], []
  for key, (path, value) in entries.items():
    name = path and path.split("/", 1)[1]
    if path is None or (only and not name.startswith(only + "/")):
      unexpected.append(key)
      continue
    theirs_float, ours_float = (jnp.issubdtype(x.dtype, jnp.floating) for x in (value, ours[path]))
    if ours_float and not theirs_float:
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
    if kernel and _TRANSPOSED.match(name):
      array = value.transpose(2, 3, 0, 1)[::-1, ::-1]
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
