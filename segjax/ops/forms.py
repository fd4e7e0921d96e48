"""A convolution's forms: functions that compute the same, with the shapes for which each is fast.

A convolution ties three arrays together: <output, image * kernel> is linear in each of them. The
convolution gives the output slot of the other two arrays, its gradients give the image's and the
kernel's slot. A form computes any of the three.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

SLOTS = ("image", "kernel", "output")


def others(wanted):
  """The two slots that give the slot `wanted`, in their order."""
  return tuple(slot for slot in SLOTS if slot != wanted)


class Form(NamedTuple):
  """One way to compute a convolution.

  Attributes:
    fits: (llvm.Convolution, dtype) -> whether the form is for these.
    output: (image, kernel, llvm.Convolution) -> output; None for a form of the image alone.
    image: (kernel, output, llvm.Convolution) -> image; None for the transpose of `output`.
    kernel: (image, output, llvm.Convolution) -> kernel; None for the transpose of `output`.
  """

  fits: Any
  output: Any = None
  image: Any = None
  kernel: Any = None

  def gives(self, wanted):
    """Whether this is a form of the slot `wanted`."""
    return self.output is not None or getattr(self, wanted) is not None

  def compute(self, wanted, a, b, c):
    """The slot `wanted` from the other two, see `others`."""
    return (getattr(self, wanted) or transposed(wanted, self.output))(a, b, c)


def choose(forms, wanted, c, dtype):
  """The first form that fits, PLAIN where none does."""
  return next((form for form in forms if form.gives(wanted) and form.fits(c, dtype)), PLAIN)


def transposed(wanted, output):
  """The function for the slot "image" or "kernel" that a function for the output implies."""

  def image(kernel, g, c):
    x = jax.ShapeDtypeStruct(c.shape("image"), g.dtype)
    return jax.linear_transpose(lambda x: output(x, kernel, c), x)(g)[0]

  def kernel(x, g, c):
    kernel = jax.ShapeDtypeStruct(c.shape("kernel"), g.dtype)
    return jax.linear_transpose(lambda kernel: output(x, kernel, c), kernel)(g)[0]

  return dict(image=image, kernel=kernel)[wanted]


def library(x, kernel, c):
  """The convolution of JAX, NHWC and HWIO, on any platform."""
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (c.stride, c.stride),
    c.pads,
    rhs_dilation=(c.dilation, c.dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=c.groups,
  )


def depth_to_space(x, features):
  """[B,H,W,4*features] -> [B,2H,2W,features]; channel block 2*i+j fills offset (i, j)."""
  n, h, w, _ = x.shape
  x = x.reshape(n, h, w, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(n, 2 * h, 2 * w, features)


def is_transpose(c, dtype=None):
  """Whether the image's slot is a transposed convolution that doubles the output exactly."""
  del dtype
  doubled = (c.height, c.width) == tuple(2 * n for n in c.out_size)
  near = c.pads == ((c.size - 2, 0),) * 2 and (c.stride, c.dilation, c.groups) == (2, 1, 1)
  return near and doubled and c.size in (2, 3)


def product_of_pixels(kernel, x, c):
  """The image of a 2x2 kernel with stride 2: its windows do not overlap, so it is one product."""
  matrix = kernel.transpose(3, 0, 1, 2).reshape(c.features, 4 * c.channels)
  return depth_to_space(x @ matrix, c.channels)


def plain_image(kernel, g, c):
  """The image's slot in standard operations."""
  if is_transpose(c):
    return (product_of_pixels if c.size == 2 else _spread_out)(kernel, g, c)
  return transposed("image", library)(kernel, g, c)


def _spread_out(kernel, g, c):
  """A 3x3 transposed convolution as one of pixels with zeros between, with the usual layouts.

  The transpose that JAX derives has the kernel's channels and features in each other's place, which
  not every converter of programs reads.
  """
  return jax.lax.conv_general_dilated(
    g,
    kernel[::-1, ::-1].swapaxes(2, 3),
    (1, 1),
    ((1, 2), (1, 2)),
    lhs_dilation=(2, 2),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


# In standard operations alone: for platforms without forms of their own and for several CPUs.
PLAIN = Form(lambda c, dtype: True, library, plain_image)
