"""VGG (Simonyan and Zisserman, ICLR 2015), torchvision's variants.

Submodules have torchvision's names with underscores for dots: `features_0`, `classifier_6`.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax

from segjax import ops
from segjax.models.conv import Conv
from segjax.models.layers import BatchNorm, Layered, dilate

WIDTHS = (64, 128, 256, 512, 512)


class VGG(Layered):
  """The convolutional part of a VGG.

  Attributes:
    stages: convolutions of each stage.
    batch_norm: after each convolution, where `norm` is None.
    output_stride: 32, or 16 or 8: the last poolings are left out, and the convolutions after
      them are dilated.
  """

  stages: tuple[int, ...] = (2, 2, 3, 3, 3)
  batch_norm: bool = False
  output_stride: int = 32

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """f32[B,H,W,C] -> features, index i at stride min(2^i, output_stride).

    Index 0 to 4 are the stages before their pooling (64, 128, 256, 512, 512 channels), index 5
    is the last one pooled. Pooling drops an odd row or column (PyTorch's `ceil_mode=False`), so
    index i has floor(H / 2^i) rows; an image under 32 pixels is extended at its edges to 32.
    """
    x = ops.pad_to_least(image, 32)
    strides = dilate((1, 2, 2, 2, 2, 2), 1, self.output_stride)
    features, index = [], 0
    for count, channels, (stride, _, dilation) in zip(self.stages, WIDTHS, strides, strict=False):
      x = ops.max_pool_2x2(x) if stride == 2 else x
      for _ in range(count):
        name, after = f"features_{index}", f"features_{index + 1}"
        conv = self.build(Conv, channels, dilation=dilation, use_bias=True, name=name)
        own = BatchNorm if self.batch_norm else "none"
        x = self.activated(self.normed(x, conv, after, train=train, own=own))
        index += 3 if self.batch_norm else 2
      index += 1  # the pooling
      features.append(x)
    return [*features, ops.max_pool_2x2(x) if strides[-1][0] == 2 else x]


class VGGHead(Layered):
  """Adaptive pooling to 7x7 and three dense layers with dropout, torchvision's `classifier`.

  Attributes:
    num_classes: classes.
  """

  num_classes: int = 1000

  @nn.compact
  def __call__(self, features: list[jax.Array], *, train: bool) -> jax.Array:
    """List of features -> logits f32[B,num_classes]; sows `penultimate`, f32[B,4096]."""
    x = ops.adaptive_avg_pool(features[-1], (7, 7))
    # PyTorch flattens channels first.
    x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    dense = partial(self.build, nn.Dense)
    for index in (0, 3):
      x = self.activated(dense(4096, name=f"classifier_{index}")(x))
      if index == 3:
        self.sow("intermediates", "penultimate", ops.wide(x))
      x = nn.Dropout(0.5, deterministic=not train)(x)
    return ops.wide(dense(self.num_classes, name="classifier_6")(x))


vgg11_bn = partial(VGG, (1, 1, 2, 2, 2), True)
vgg16 = partial(VGG, (2, 2, 3, 3, 3), False)
vgg16_bn = partial(VGG, (2, 2, 3, 3, 3), True)
