"""Convolutions of float32 on a CPU's vector units, written for each shape and compiled by LLVM.

XLA's CPU backend reaches a tenth to a half of the machine's rate on the thin full-resolution
layers of segmentation nets. These kernels reach most of it. `segjax.models.conv` uses them where
`usable` says so; without llvmlite, and on other platforms, it goes on with XLA's operations.
"""

from segjax.native.convolution import (
  Convolution,
  convolve,
  convolve_wide,
  usable,
  weight_gradient,
)

__all__ = ["Convolution", "convolve", "convolve_wide", "usable", "weight_gradient"]
