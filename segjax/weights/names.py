"""Names of PyTorch's entries -> names of our variables.

They need no table by architecture: backbones and SegFormer carry the names of their source with
underscores for dots, and a few rules below cover the heads. Where several libraries have an
encoder, `families` brings their names to one.
"""

from __future__ import annotations

import collections
import re

from segjax.errors import UserError
from segjax.weights.families import common_names

_KINDS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# Names that torch.compile and FSDP put between those of modules.
_WRAPPER = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
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
# Of segmentation_models_pytorch, whose layers are pairs of a convolution and a norm.
_PAIRS = (
  (r"^segmentation_head\.0$", "head"),
  (r"^(decoder\..*)\.0$", r"\1.conv"),
  (r"^(decoder\..*)\.1$", r"\1.norm"),
)
# Of the heads of `transformers`.
_UPERNET = ((r"^decode_head\.(.+)\.batch_norm$", r"head.\1.norm"),)
_AUX = (
  (r"^aux_classifier\.0$", "aux_head.conv"),
  (r"^aux_classifier\.1$", "aux_head.norm"),
  (r"^aux_classifier\.4$", "aux_head.logits"),
)


def place(tensors, ours, only, where):
  """Finds the place of each entry of a state dict among our variables.

  Args:
    tensors: name -> array.
    ours: our paths, "params/head/fc/kernel".
    only: submodule that counts, or nothing.
    where: place of the file, for messages.

  Returns:
    (prefix, {entry: our path}): the prefix without which most entries have a place, the shortest of
    those.

  Raises:
    UserError: as many entries have a place by one prefix as by another.
  """
  places = {}  # (our modules joined by underscores, kind of leaf) -> our path
  for path in ours:
    _, *modules, leaf = path.split("/")
    places["_".join(modules), _KINDS.get(leaf, leaf)] = path
  found = {}
  for prefix in _prefixes(tensors):
    inner = {key: key[len(prefix) :] for key in tensors if key.startswith(prefix)}
    plain = {key: _WRAPPER.sub("", name) for key, name in inner.items()}
    common = common_names(set(plain.values()))
    plain = {key: common[name] for key, name in plain.items()}
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
  if "segmentation_head.0.weight" in names:
    rules += _PAIRS
  elif "decode_head.fpn_bottleneck.conv.weight" in names:
    rules += _UPERNET
  elif "classifier.0.convs.0.0.weight" in names:
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
  found = (name, f"backbone.{name}", f"head.{name}")
  return [c.strip(".").replace(".", "_") for c in found]
