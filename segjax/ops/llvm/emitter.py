"""LLVM instructions for loops over arrays of float32, a thin layer over llvmlite's builder."""

from __future__ import annotations

import contextlib

from llvmlite import ir

I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
F32, POINTER, VOID = ir.FloatType(), ir.PointerType(), ir.VoidType()


def integer(n):
  """Constant of 64 bits."""
  return ir.Constant(I64, n)


def vector(lanes):
  """Type of `lanes` float32 values."""
  return ir.VectorType(F32, lanes)


class Emitter:
  """Writes the body of one function.

  Offsets into arrays count float32 values: a sum of ints, values of 64 bits, and products of the
  two as pairs (value, int). Variables live on the stack until LLVM gives them registers, and so
  must be made before the loops that change them.

  Attributes:
    build: llvmlite's builder, for arithmetic on indices.
  """

  def __init__(self, function):
    self._function = function
    self._entry = ir.IRBuilder(function.append_basic_block("entry"))
    self._body = function.append_basic_block("body")
    self.build = ir.IRBuilder(self._body)

  def finish(self):
    """Returns from the function; call it last."""
    self.build.ret_void()
    self._entry.branch(self._body)

  def variable(self, of):
    """Pointer to a variable of a type."""
    return self._entry.alloca(of)

  @contextlib.contextmanager
  def loop(self, end, start=0):
    """A loop; gives its index, which goes from `start` to below `end` (ints or values)."""
    build, index = self.build, self.variable(I64)
    start, end = (integer(n) if isinstance(n, int) else n for n in (start, end))
    build.store(start, index)
    test, body, after = (self._function.append_basic_block(n) for n in ("test", "loop", "after"))
    build.branch(test)
    build.position_at_end(test)
    build.cbranch(build.icmp_signed("<", build.load(index, typ=I64), end), body, after)
    build.position_at_end(body)
    yield build.load(index, typ=I64)
    build.store(build.add(build.load(index, typ=I64), integer(1)), index)
    build.branch(test)
    build.position_at_end(after)

  def smaller(self, a, b):
    """Minimum of two values."""
    return self.build.select(self.build.icmp_signed("<", a, b), a, b)

  def larger(self, a, b):
    """Maximum of two values."""
    return self.build.select(self.build.icmp_signed(">", a, b), a, b)

  def divide(self, a, n):
    """(quotient, remainder) of a value and an int, neither negative."""
    return self.build.sdiv(a, integer(n)), self.build.srem(a, integer(n))

  def at(self, array, *offsets):
    """Pointer into an array of float32."""
    known, total = 0, None
    for offset in offsets:
      if isinstance(offset, int):
        known += offset
        continue
      if isinstance(offset, tuple):
        offset = self.build.mul(offset[0], integer(offset[1]))  # noqa: PLW2901
      total = offset if total is None else self.build.add(total, offset)
    if total is not None:
      array = self.build.gep(array, [total], source_etype=F32)
    return self.build.gep(array, [integer(known)], source_etype=F32) if known else array

  def load(self, pointer, lanes=0):
    """A value, or a vector of `lanes` values, wherever it lies."""
    return self.build.load(pointer, typ=vector(lanes) if lanes else F32, align=4)

  def store(self, value, pointer):
    """Stores a value or a vector, wherever it shall lie."""
    self.build.store(value, pointer, align=4)

  def spread(self, value, lanes):
    """A vector with one value in all lanes."""
    nothing = ir.Constant(vector(lanes), ir.Undefined)
    first = self.build.insert_element(nothing, value, ir.Constant(I32, 0))
    same = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return self.build.shuffle_vector(first, nothing, same)

  def add_product(self, variable, a, b):
    """variable += a * b, rounded once."""
    name, module = f"llvm.fma.v{a.type.count}f32", self._function.module
    fma = module.globals.get(name) or ir.Function(
      module, ir.FunctionType(a.type, [a.type] * 3), name
    )
    old = self.build.load(variable, typ=a.type)
    self.build.store(self.build.call(fma, [a, b, old]), variable)

  def clear(self, pointer, count):
    """Sets `count` values to 0."""
    if count:
      memset = self._function.module.declare_intrinsic("llvm.memset", [POINTER, I64])
      zero, no = ir.Constant(I8, 0), ir.Constant(I1, 0)
      self.build.call(memset, [pointer, zero, integer(4 * count), no])

  def copy(self, target, source, count):
    """Copies `count` values."""
    memcpy = self._function.module.declare_intrinsic("llvm.memcpy", [POINTER, POINTER, I64])
    self.build.call(memcpy, [target, source, integer(4 * count), ir.Constant(I1, 0)])
