"""Names of one encoder's tensors in several libraries -> the names that our modules carry."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import numpy as np


def _halved(text, less=0):
  """A replacement for a numbered name of torchvision's `features`, of which two make a stage."""
  return lambda match: text.format(int(match[1]) // 2 - less, *match.groups()[1:])


# Attention in transformers 5, where a module's names differ from those of the files that it saves.
_ATTENTION_5 = (
  (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
  (r"\.attention\.o_proj\.", ".attn.proj."),
)
# The same of SegFormer, whose files our modules are named after.
_QUERIES = dict(q="query", k="key", v="value")
_SEGFORMER_5 = (
  (r"^(segformer\.)?stages\.(\d)\.patch_embeddings\.", r"segformer.encoder.patch_embeddings.\2."),
  (r"^(segformer\.)?stages\.(\d)\.blocks\.", r"segformer.encoder.block.\2."),
  (r"^(segformer\.)?stages\.(\d)\.layer_norm\.", r"segformer.encoder.layer_norm.\2."),
  (r"\.attention\.sequence_reduction\.sequence_reduction\.", ".attention.self.sr."),
  (r"\.attention\.sequence_reduction\.", ".attention.self."),
  (r"\.attention\.([qkv])_proj\.", lambda match: f".attention.self.{_QUERIES[match[1]]}."),
  (r"\.attention\.o_proj\.", ".attention.output.dense."),
  (r"\.mlp\.fc([12])\.", r".mlp.dense\1."),
  (r"\.layernorm_before\.", ".layer_norm_1."),
  (r"\.layernorm_after\.", ".layer_norm_2."),
  (r"^decode_head\.linear_projections\.", "decode_head.linear_c."),
)
_EOMT = "embeddings.position_embeddings.weight"  # of the patches alone
# Of a family: names that a file of it has, or with "-" has not, and rewrites of names, each applied
# in turn. Names on the right are those of the repository that first published the net.
_FAMILIES = (
  (  # transformers' DINOv2
    ("embeddings.position_embeddings",),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.([qkv])[a-z]+\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
    *_ATTENTION_5,
  ),
  (  # transformers' DINOv3
    ("layer.0.attention.q_proj.weight",),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^layer\.", "blocks."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
  ),
  (("storage_tokens",), (r"^storage_tokens$", "register_tokens")),  # facebookresearch's DINOv3
  (("reg_token",), (r"^reg_token$", "register_tokens")),  # timm's DINOv2 and DINOv3
  (("blocks.0.gamma_1",), (r"\.gamma_([12])$", r".ls\1.gamma")),  # timm's DINOv3
  (  # facebookresearch's ConvNeXt
    ("downsample_layers.0.0.weight",),
    (r"^norm\.", "final_norm."),
    (r"^head\.", "fc."),
  ),
  (  # transformers' ConvNeXt
    ("encoder.stages.0.layers.0.dwconv.weight",),
    (r"^embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
    (r"^embeddings\.layernorm\.", "downsample_layers.0.1."),
    (r"^encoder\.stages\.(\d)\.downsampling_layer\.", r"downsample_layers.\1."),
    (r"^encoder\.stages\.(\d)\.layers\.", r"stages.\1."),
    (r"\.layernorm\.", ".norm."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"\.grn\.weight$", ".grn.gamma"),
    (r"\.grn\.bias$", ".grn.beta"),
    (r"^layernorm\.", "final_norm."),
    (r"^classifier\.", "fc."),
  ),
  (  # timm's ConvNeXt
    ("stages.0.blocks.0.conv_dw.weight",),
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc([12])\.", r".pwconv\1."),
    (r"\.mlp\.grn\.weight$", ".grn.gamma"),
    (r"\.mlp\.grn\.bias$", ".grn.beta"),
    (r"^head\.norm\.", "final_norm."),
    (r"^head\.fc\.", "fc."),
  ),
  (  # torchvision's ConvNeXt
    ("features.1.0.layer_scale",),
    (r"^features\.0\.", "downsample_layers.0."),
    (r"^features\.([246])\.(\d\.)", _halved("downsample_layers.{}.{}")),
    (r"^features\.([1357])\.(\d+\.)", _halved("stages.{}.{}")),
    (r"\.block\.0\.", ".dwconv."),
    (r"\.block\.2\.", ".norm."),
    (r"\.block\.3\.", ".pwconv1."),
    (r"\.block\.5\.", ".pwconv2."),
    (r"\.layer_scale$", ".gamma"),
    (r"^classifier\.0\.", "final_norm."),
    (r"^classifier\.2\.", "fc."),
  ),
  (  # microsoft's and timm's Swin
    ("layers.0.blocks.0.attn.relative_position_bias_table",),
    (r"^head\.(fc\.)?", "fc."),
  ),
  (  # timm's Swin, where a stage begins with the merging
    ("layers.0.blocks.0.attn.relative_position_bias_table", "-layers.0.downsample.norm.weight"),
    (r"^layers\.(\d)\.down", lambda match: f"layers.{int(match[1]) - 1}.down"),
  ),
  (  # torchvision's Swin
    ("features.1.0.attn.relative_position_bias_table",),
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"^features\.([246])\.", _halved("layers.{}.downsample.", 1)),
    (r"^features\.([1357])\.", _halved("layers.{}.blocks.")),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^head\.", "fc."),
  ),
  (  # transformers' Swin
    ("encoder.layers.0.blocks.0.layernorm_before.weight",),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.", ""),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.([qkv])[a-z]+\.", r".attn.\1."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.relative_position_bias\.", ".attn."),
    *_ATTENTION_5,
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "fc."),
  ),
  (  # transformers' EoMT
    (_EOMT, "query.weight"),
    (rf"^{_EOMT}$", "backbone.pos_embed"),
    (r"^query\.weight$", "query"),
    (r"^embeddings\.patch_embeddings\.projection\.", "backbone.patch_embed.proj."),
    (r"^embeddings\.", "backbone."),
    (r"^layers\.", "backbone.blocks."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.out_proj\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "backbone.norm."),
    (r"^(class_predictor|mask_head|upscale_block)\.", r"head.\1."),
  ),
  (("stages.0.blocks.0.attention.q_proj.weight",), *_SEGFORMER_5),
  (("segformer.stages.0.blocks.0.attention.q_proj.weight",), *_SEGFORMER_5),
)
# The name of the encoder within a classifier of transformers, and within its DINOv3.
_MODEL = re.compile(
  r"^(convnext|convnextv2|dinov2|dinov2_with_registers|swin)\.|^model\.(?=layer\.\d)"
)
_ENCODER = "backbone."
# Parts of a gated MLP, which none of our nets has.
GATED = re.compile(r"\.mlp\.(gate_proj|w[123]|w12|weights_(in|out)|fc1_[gx])\.")
_QKV = re.compile(r"(^|.*\.)qkv\.(weight|bias)$")
# Constants that nets compute anew.
_CONSTANT = re.compile(
  r"(num_batches_tracked|(^|\.)rope_embed\.periods|\.qkv\.bias_mask|\.relative_position_index|"
  r"\.blocks\.\d+\.attn_mask|^attn_mask_probs|^criterion\.empty_weight)$"
)


def common_names(names: Collection[str]) -> dict[str, str]:
  """Names of a state dict -> names in their family's first repository, or the same."""
  inner = {name for name in names if name.startswith(_ENCODER)}
  if 0 < len(inner) < len(names):  # an encoder within a net, which may be of another family
    found = common_names({name.removeprefix(_ENCODER) for name in inner})
    rest = common_names(set(names) - inner)
    return rest | {name: _ENCODER + found[name.removeprefix(_ENCODER)] for name in inner}
  plain = {name: _MODEL.sub("", name) for name in names}
  there, out = set(plain.values()), {}
  rules = [rule for marks, *rules in _FAMILIES if _fit(marks, there) for rule in rules]
  for name, new in plain.items():
    for pattern, replacement in rules:
      new = re.sub(pattern, replacement, new)  # noqa: PLW2901
    out[name] = new if rules else name
  return out


def _fit(marks, names):
  return all((m.lstrip("-") in names) != m.startswith("-") for m in marks)


def separated(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Cuts `qkv.weight` and `qkv.bias` into those of `q`, `k` and `v`; constants are left out.

  A bias of keys that the file's own `bias_mask` cancels is left out too. Positions without one of
  the class token get one of zeros, and so do queries and values of timm's DINOv3 without a bias.
  """
  out = {}
  for name, value in tensors.items():
    found = _QKV.match(name)
    if f".{name}".endswith(f".{_EOMT}"):
      out[name] = np.concatenate([np.zeros_like(value[:1]), value])[None]
      continue
    start, _, leaf = name.rpartition(".")
    if leaf == "pos_embed" and f"{start}.reg_token".lstrip(".") in tensors:  # timm's
      out[name] = np.concatenate([np.zeros_like(value[:, :1]), value], 1)
      continue
    if not found or value.ndim == 0 or len(value) % 3:
      out[name] = value
      continue
    start, leaf = found.groups()
    for part, piece in zip("qkv", np.split(value, 3), strict=True):
      if leaf == "weight" or part != "k" or f"{start}qkv.bias_mask" not in tensors:
        out[f"{start}{part}.{leaf}"] = piece
      if part != "k" and f"{start.partition('blocks.')[0]}blocks.0.gamma_1" in tensors:
        out.setdefault(f"{start}{part}.bias", np.zeros_like(piece[:, 0]))
  return {name: value for name, value in out.items() if not _CONSTANT.search(name)}
