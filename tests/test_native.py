"""The kernels of segjax.ops.llvm equal the library's convolution, whoever computes which part."""

import concurrent.futures
import functools
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import run_with_core_packages

from segjax import models, ops
from segjax.ops import llvm as native
from segjax.ops.llvm import convolution, forward, handler, kept_code, xla_call

pytestmark = pytest.mark.skipif(xla_call.machine() is None, reason="no kernels on this machine")

# Batch, height, width, channels, features, kernel size, stride, dilation, padding.
CASES = {
  "one_pixel": (1, 1, 1, 1, 1, 3, 1, 1, ((1, 1), (1, 1))),
  "thin": (2, 9, 12, 3, 8, 3, 1, 1, ((1, 1), (1, 1))),
  "odd_channels": (3, 7, 29, 13, 23, 3, 1, 1, ((1, 1), (1, 1))),
  "several_blocks": (2, 6, 17, 24, 75, 3, 1, 1, ((1, 1), (1, 1))),
  "strips": (2, 150, 40, 33, 8, 3, 1, 1, ((1, 1), (1, 1))),
  "groups_of_strips": (5, 60, 70, 40, 24, 3, 1, 1, ((1, 1), (1, 1))),
  "wide": (2, 8, 8, 160, 136, 3, 1, 1, ((1, 1), (1, 1))),
  "no_padding": (2, 8, 11, 5, 6, 3, 1, 1, ((0, 0), (0, 0))),
  "uneven_padding": (2, 8, 11, 5, 6, 3, 1, 1, ((0, 2), (3, 1))),
  "more_padding_than_image": (1, 2, 3, 4, 5, 3, 1, 1, ((4, 5), (5, 4))),
  "strided": (2, 17, 20, 9, 16, 3, 2, 1, ((1, 1), (1, 1))),
  "strided_2x2": (2, 16, 22, 16, 8, 2, 2, 1, ((0, 0), (0, 0))),
  "stem": (2, 33, 40, 3, 64, 7, 2, 1, ((3, 3), (3, 3))),
  "dilated": (2, 20, 19, 8, 32, 3, 1, 4, ((4, 4), (4, 4))),
  "dilated_uneven": (2, 18, 19, 8, 32, 3, 1, 4, ((4, 4), (4, 4))),
  "dilated_strips": (1, 48, 40, 96, 40, 3, 1, 2, ((2, 2), (2, 2))),
  "several_shares": (1, 9, 8, 160, 420, 3, 1, 1, ((1, 1), (1, 1))),
  "deep": (1, 14, 9, 300, 40, 3, 1, 2, ((2, 2), (2, 2))),
  "strided_dilated": (2, 21, 19, 6, 10, 5, 3, 2, ((4, 4), (4, 4))),
}
# Directly, and by Winograd's tiles what can go by them.
FORMS = [(c, "direct") for c in CASES] + [(c, "tiles") for c in CASES if CASES[c][5:7] == (3, 1)]


@pytest.fixture
def form(request, monkeypatch):
  """The kernel that a convolution takes, whatever its size."""
  monkeypatch.setattr(convolution, "in_tiles", lambda spec: request.param == "tiles")


def in_forms(*cases):
  """Parametrizes a test with cases, all by default, in all their forms."""
  forms = [(c, f) for c, f in FORMS if not cases or c in cases]
  return pytest.mark.parametrize(("case", "form"), forms, indirect=["form"])


def draw(case, seed=0):
  """(spec, x, kernel, gradient of the output)."""
  *shape, pads = CASES[case]
  spec = native.Convolution(*shape, pads)
  rng = np.random.default_rng(seed)
  sizes = (
    (spec.batch, spec.height, spec.width, spec.channels),
    (spec.size, spec.size, spec.channels, spec.features),
    (spec.batch, *spec.out_size, spec.features),
  )
  return spec, *(rng.normal(size=s).astype(np.float32) for s in sizes)


@in_forms("odd_channels", "several_blocks")
def test_a_turned_kernel_is_that_of_the_gradient(case, form):
  spec, x, kernel, _ = draw(case)
  turned = kernel[::-1, ::-1].swapaxes(2, 3)
  got = native.convolve(x, turned, spec._replace(turned=True))
  np.testing.assert_array_equal(got, native.convolve(x, kernel, spec))


def library(spec, x, kernel):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (spec.stride,) * 2,
    spec.pads,
    rhs_dilation=(spec.dilation,) * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=spec.groups,
  )


@in_forms()
def test_kernels_equal_the_library(case, form):
  spec, x, kernel, g = draw(case)
  with jax.enable_x64():
    wide = [jnp.asarray(a, jnp.float64) for a in (x, kernel, g)]
    out, vjp = jax.vjp(lambda k: library(spec, wide[0], k), wide[1])
    (gradient,) = vjp(wide[2])
  ours = jax.jit(lambda x, k: native.convolve(x, k, spec))(x, kernel)
  of_kernel = jax.jit(lambda x, g: native.weight_gradient(x, g, spec))(x, g)
  for got, expected in ((ours, out), (of_kernel, gradient)):
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=3e-6 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("machine", [(4, 32), (8, 16), (16, 32)])
@in_forms("odd_channels", "several_blocks", "stem", "dilated", "several_shares")
@pytest.mark.slow
def test_vectors_of_any_width_give_the_same_bits(case, form, machine, monkeypatch):
  spec, x, kernel, g = draw(case)

  def both():
    return (
      jax.jit(lambda x, k: native.convolve(x, k, spec))(x, kernel),
      jax.jit(lambda x, g: native.weight_gradient(x, g, spec))(x, g),
    )

  expected = both()
  monkeypatch.setattr(xla_call, "machine", lambda: xla_call.Machine(*machine))
  got = both()
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_array_equal(a, b)


@in_forms("groups_of_strips")
def test_an_image_has_the_same_bits_in_any_batch_and_every_time(case, form):
  spec, x, kernel, g = draw(case)
  one = spec._replace(batch=1)
  whole = jax.jit(lambda x: native.convolve(x, kernel, spec))(x)
  single = jax.jit(lambda x: native.convolve(x, kernel, one))
  for i in range(spec.batch):
    np.testing.assert_array_equal(single(x[i : i + 1])[0], whole[i])
  of_kernel = jax.jit(lambda x, g: native.weight_gradient(x, g, spec))
  first = of_kernel(x, g)
  for _ in range(20):
    np.testing.assert_array_equal(of_kernel(x, g), first)


@in_forms("strips")
def test_calls_from_many_threads_at_once(case, form):
  spec, x, kernel, _ = draw(case)
  call = jax.jit(lambda x: native.convolve(x, kernel, spec).sum((1, 2)))
  inputs = [x * (i + 1) for i in range(24)]
  expected = [np.asarray(call(a)) for a in inputs]
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for got, want in zip(pool.map(call, inputs), expected, strict=True):
      np.testing.assert_array_equal(got, want)


def test_convolutions_of_nets_use_the_kernels_where_they_can():
  def target(dtype=jnp.float32, platform="cpu", dilation=1, size=12, channels=8):
    x, kernel = jnp.zeros((1, size, size, 16), dtype), jnp.zeros((3, 3, 16, channels), dtype)
    convolve = functools.partial(ops.conv, padding=dilation, dilation=dilation)
    step = jax.jit(jax.grad(lambda k, x: convolve(x, k).sum(), (0, 1)))
    return step.trace(kernel, x).lower(lowering_platforms=(platform,)).as_text()

  assert target().count("@segjax_forward") == 1  # of the input's gradient; the sum needs no value
  assert target().count("@segjax_gradient") == 1
  assert "@segjax" not in target(dilation=3)  # a product for each tap
  tiles = target(size=16, channels=16)
  assert tiles.count("@segjax_winograd_gradient") == tiles.count("@segjax_winograd_kernel") == 1
  for thinner in ({"size": 16, "channels": 15}, {"size": 15, "channels": 16}):
    assert "@segjax_winograd" not in target(**thinner)
  assert "@segjax" not in target(jnp.bfloat16)
  assert "@segjax" not in target(platform="cuda")


@pytest.mark.slow
def test_a_net_gives_the_same_with_and_without_kernels(monkeypatch):
  net = models.UNet(num_classes=4, widths=(8, 16, 32))
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.normal(size=(2, 64, 48, 3)), jnp.float32)
  label = jnp.asarray(rng.integers(0, 4, (2, 64, 48)))
  params = net.init(jax.random.key(0), image, train=False)

  def loss(params, image):
    logits = net.apply(params, image, train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

  def call():
    step = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(params, image)
    return "@segjax_winograd" in step.as_text(), step.compile()(params, image)

  used, got = call()
  monkeypatch.setattr(xla_call, "machine", lambda: None)
  used_then, want = call()
  assert used
  assert not used_then
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def test_without_llvmlite_the_library_is_used():
  code = """
  from segjax.ops import llvm as native
  spec = native.Convolution(1, 8, 8, 4, 8, 3, 1, 1, ((1, 1), (1, 1)))
  assert not native.usable(spec, np.dtype("float32"))
  """
  done = run_with_core_packages(code)  # llvmlite is none of them
  assert done.returncode == 0, done.stderr


@pytest.fixture
def kept(tmp_path, monkeypatch):
  """(function that registers a kernel as a new process would, its file, list of compilations)."""
  args, compiled = (forward.forward, draw("thin")[0], xla_call.machine()), []
  folder = jax.config.jax_compilation_cache_dir
  monkeypatch.setattr(jax.ffi, "register_ffi_target", lambda *a, **k: None)  # a name but once
  monkeypatch.setattr(
    xla_call, "_compile", lambda *a, make=xla_call._compile: compiled.append(a) or make(*a)
  )

  def register():
    monkeypatch.setattr(xla_call, "_engines", {})
    return xla_call.register.__wrapped__(*args)

  place = tmp_path / "kept"
  place.mkdir(mode=0o755)
  jax.config.update("jax_compilation_cache_dir", str(place))
  yield register, place / (register() + ".o"), compiled
  jax.config.update("jax_compilation_cache_dir", folder)


def test_compiled_kernels_are_kept(kept):
  register, file, compiled = kept
  assert register() == file.stem
  assert len(compiled) == 1
  assert list(file.parent.iterdir()) == [file]
  jax.config.update("jax_compilation_cache_dir", str(file.parent / "missing" / "folder"))
  assert register() == file.stem
  assert len(compiled) == 2


DAMAGE = {
  "empty": lambda f: f.write_bytes(b""),
  "cut": lambda f: f.write_bytes(f.read_bytes()[:-9]),
  "garbage": lambda f: f.write_bytes(b"x" * 5000),
  "flipped bit": lambda f: f.write_bytes(f.read_bytes()[:999] + b"\xff" + f.read_bytes()[1000:]),
  "another kernel's": lambda f: f.write_bytes(kept_code._digest(f.parent / "y.o", b"z") + b"z"),
  "writable by others": lambda f: f.chmod(0o666),
  "link": lambda f: f.symlink_to(f.rename(f.parent.parent / "moved.o")),
  "FIFO": lambda f: (f.unlink(), os.mkfifo(f)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_file_of_a_kernel_is_compiled_anew_and_replaced(kept, damage):
  register, file, compiled = kept
  good = file.read_bytes()
  DAMAGE[damage](file)
  assert register() == file.stem
  assert len(compiled) == 2
  assert file.is_file() and not file.is_symlink() and file.read_bytes() == good
  assert register() == file.stem
  assert len(compiled) == 2


def test_kernels_are_not_read_from_a_folder_that_others_write_to(kept):
  register, file, compiled = kept
  file.parent.chmod(0o777)
  with pytest.warns(RuntimeWarning, match=rf"others can write .*chmod go-w {file.parent}"):
    register()
  assert len(compiled) == 2
  file.parent.chmod(0o755)
  register()
  assert len(compiled) == 2


HEADER = """
#define XLA_FFI_API_MAJOR 0
#define XLA_FFI_API_MINOR 3
struct XLA_FFI_Api {
  _XLA_FFI_API_STRUCT_FIELD(XLA_FFI_Error_Create);
  _XLA_FFI_API_STRUCT_FIELD(XLA_FFI_ThreadPool_Schedule);
  _XLA_FFI_API_STRUCT_FIELD(XLA_FFI_New);
  _XLA_FFI_API_STRUCT_FIELD(XLA_FFI_ThreadPool_NumThreads);
};
"""


def test_the_interface_is_read_from_the_header_or_not_used():
  assert xla_call.read_interface(HEADER) == (3, 48 + 8, 48 + 24, 48)
  assert xla_call.read_interface(HEADER.replace("MINOR 3", "MINOR 7")) is None
  assert xla_call.read_interface(HEADER.replace("MAJOR 0", "MAJOR 1")) is None
  assert xla_call.read_interface(HEADER.replace("NumThreads", "Size")) is None
  assert xla_call.read_interface("") is None


@pytest.mark.parametrize("header", [HEADER.replace("MINOR 3", "MINOR 7"), None])
def test_an_interface_that_was_not_tested_is_left_alone_and_said_once(
  header, tmp_path, monkeypatch
):
  if header:
    (tmp_path / "xla/ffi/api").mkdir(parents=True)
    (tmp_path / "xla/ffi/api/c_api.h").write_text(header)
  monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
  monkeypatch.setattr(xla_call, "interface", functools.cache(xla_call.interface.__wrapped__))
  with pytest.warns(RuntimeWarning, match=r"tested with \(0\.3 and 0\.4\)") as caught:
    assert [xla_call.machine.__wrapped__() for _ in range(2)] == [None, None]
  assert len(caught) == 1


def test_wrong_numbers_switch_the_kernels_off_with_one_warning(monkeypatch):
  """Each kind is tried once in a process, here one whose result is not the convolution."""
  wrong = lambda *args, make=convolution.convolve: 2 * make(*args)  # noqa: E731
  monkeypatch.setattr(convolution, "convolve", wrong)
  monkeypatch.setattr(convolution, "is_sound", functools.cache(convolution.is_sound.__wrapped__))
  small, other = (native.Convolution(1, n, 6, 3, 4, 3, 1, 1, ((1, 1),) * 2) for n in (6, 7))
  with pytest.warns(RuntimeWarning, match="wrong numbers") as caught:
    assert not any(native.usable(spec, jnp.float32) for spec in (small, small, other))
  assert len(caught) == 1


@pytest.mark.parametrize("lost", ["all", "the workers'"])
def test_without_memory_a_call_fails_or_takes_fewer_threads(lost, tmp_path, monkeypatch):
  never = "define internal ptr @none(i64 %size) {\n  ret ptr null\n}\n"
  head, work = handler.HANDLER.split("define internal void @work")
  failing = "call ptr @none(i64 SCRATCH)"
  work = work.replace("call ptr @malloc(i64 SCRATCH)", failing, 2 if lost == "all" else 1)
  monkeypatch.setattr(handler, "HANDLER", f"{never}{head}define internal void @work{work}")
  folder = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  try:
    spec = native.Convolution(4, 64, 9, 3, 5 + len(lost), 3, 1, 1, ((1, 1), (1, 1)))
    x, kernel = (np.ones(spec.shape(slot), np.float32) for slot in ("image", "kernel"))
    if lost == "all":
      with pytest.raises(jax.errors.JaxRuntimeError, match="no memory left for a convolution"):
        jax.block_until_ready(native.convolve(x, kernel, spec))
    else:
      assert native.convolve(x, kernel, spec).max() == 27
  finally:
    jax.config.update("jax_compilation_cache_dir", folder)


def test_the_package_imported_anew_uses_what_is_registered():
  spec, x, kernel, _ = draw("uneven_padding")
  wanted = native.convolve(x, kernel, spec)
  kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("segjax")}
  try:
    from segjax.ops import llvm as anew

    assert anew is not native
    np.testing.assert_array_equal(anew.convolve(x, kernel, anew.Convolution(*spec)), wanted)
  finally:
    for name in [name for name in sys.modules if name.startswith("segjax")]:
      del sys.modules[name]
    sys.modules.update(kept)
