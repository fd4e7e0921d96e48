"""Convolutions of float32 on a CPU's vector units, written for each shape and compiled by LLVM.

XLA's CPU backend reaches a tenth to a half of the machine's rate on the thin full-resolution
layers of segmentation nets. These kernels reach most of it. `segjax.ops.cpu` uses them where
`usable` and `usable_depthwise` say so, and XLA's operations elsewhere, as without llvmlite.
"""

from segjax.ops.llvm.convolution import (
  Convolution,
  convolve,
  depthwise_convolve,
  depthwise_weight_gradient,
  usable,
  usable_depthwise,
  weight_gradient,
)

__all__ = [
  "Convolution",
  "convolve",
  "depthwise_convolve",
  "depthwise_weight_gradient",
  "usable",
  "usable_depthwise",
  "weight_gradient",
]
