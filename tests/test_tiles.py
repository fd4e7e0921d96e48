"""Tiles, their weights and what they give together; scales, mirrors, thresholds of a Predictor."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from segjax.data import pipeline, sizes, tiles
from segjax.errors import UserError
from segjax.export import batches
from segjax.inference import Predictor, View, averaging

TILE, REACH = (64, 96), 6  # pixels; the reach of the net below


def picture(height, width, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def blurred(images):
  """Probabilities by a mean over 13 x 13 pixels with zeros around, as a net's convolutions see."""
  x = ndimage.uniform_filter(images / 255.0, (1, 2 * REACH + 1, 2 * REACH + 1, 1), mode="constant")
  x = x + 0.1
  return (x / x.sum(-1, keepdims=True)).astype(np.float32)


def model(probabilities=blurred, **fields):
  """A Model of three classes that keeps the shapes of its input."""
  shapes = []

  def call(images):
    shapes.append(images.shape)
    return probabilities(images)

  known = dict(classes=("a", "b", "c"), palette=np.eye(3, dtype=np.uint8), size=None, multiple=8,
               one_logit=False, batch=None, probabilities=call, shapes=shapes)  # fmt: skip
  return SimpleNamespace(**known | fields)


@pytest.mark.parametrize("length", [64, 65, 89, 100, 999])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6, 0.9])
def test_weights_sum_to_one_and_tiles_lie_inside(length, overlap):
  starts = tiles.places(length, 64, overlap, 8)
  assert starts[0] == 0 and starts[-1] == length - 64
  assert all(0 < b - a <= 64 * (1 - overlap) for a, b in itertools.pairwise(starts))
  assert overlap == 0.9 or all(start % 8 == 0 for start in starts[:-1])
  total = np.zeros(length)
  for start, weight in zip(starts, tiles.weights(starts, 64, length), strict=True):
    assert (weight >= 0).all()
    total[start : start + 64] += weight
  np.testing.assert_allclose(total, 1, atol=1e-6)


def test_the_weight_passes_smoothly_in_the_middle_of_what_tiles_share():
  first, second = tiles.weights([0, 32], 64, 96)
  assert (first[:44] == 1).all() and (first[52:] == 0).all()
  assert (np.diff(first[43:53]) < 0).all() and abs(np.diff(first)).max() < 0.2
  np.testing.assert_allclose(first[32:], second[:32][::-1], atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 96), (150, 333), (65, 96), (256, 192)])
def test_tiles_give_what_the_whole_image_gives(shape):
  """The net sees 13 pixels, tiles share 32 and 48."""
  image, net = picture(*shape), model()
  predict = Predictor(net, mode="tiles", tile=TILE, overlap=0.5, batch_size=3)
  found = predict(image)
  np.testing.assert_allclose(found.probabilities, blurred(image[None])[0], atol=1e-5)
  np.testing.assert_array_equal(found.image, image)
  assert set(net.shapes) == {(3, *TILE, 3)}  # one compilation


def test_the_last_batch_is_filled_and_its_copies_are_left_out():
  images, net = np.stack([picture(8, 8, seed=i) for i in range(5)]), model()
  found = list(tiles.in_batches(images, net.probabilities, 2))
  assert net.shapes == [(2, 8, 8, 3)] * 3 and [len(f) for f in found] == [2, 2, 1]
  np.testing.assert_array_equal(np.concatenate(found), blurred(images))
  np.testing.assert_array_equal(batches.probabilities(net, images), blurred(images))
  assert net.shapes[3:] == [(5, 8, 8, 3)]


def test_an_image_smaller_than_a_tile_is_mirrored():
  image, seen = picture(40, 50), []
  predict = Predictor(model(lambda x: seen.append(x) or blurred(x)), tile=TILE, batch_size=1)
  assert predict(image).label.shape == (40, 50)
  np.testing.assert_array_equal(seen[0][0, 40:64, :50], image[15:39][::-1])


def test_evaluation_and_prediction_extend_an_image_alike():
  image, seen = picture(40, 50), []
  example = dict(image=image, label=np.zeros((40, 50), np.uint8))
  recording = model(lambda x: seen.append(x[0]) or blurred(x), multiple=32)
  Predictor(recording)(image)
  full = pipeline.FullSize([example], 32, 0)[0]
  np.testing.assert_array_equal(seen[-1], full["image"])
  assert full["image"].shape == (64, 64, 3) and (full["label"][40:] == 255).all()
  recording.view = View("native", (70, 80))  # of a run that is evaluated by the middle
  Predictor(recording)(image)
  np.testing.assert_array_equal(seen[-1], pipeline.CenterCrop([example], (70, 80), 0)[0]["image"])


def test_lists_of_files_and_arrays_of_any_size(tmp_path):
  images = [picture(40, 50), picture(70, 20, seed=1), picture(40, 50, seed=2)]
  files = [tmp_path / f"{i}.png" for i in range(3)]
  for file, image in zip(files, images, strict=True):
    Image.fromarray(image).save(file)
  net = model()
  predict = Predictor(net, mode="resize", tile=(32, 48), batch_size=2)
  found = predict([files[0], images[1], str(files[2])])
  assert [f.label.shape for f in found] == [(40, 50), (70, 20), (40, 50)]
  assert net.shapes == [(2, 32, 48, 3), (1, 32, 48, 3)]
  small = blurred(sizes.resize_image(images[1], (32, 48))[None])[0]
  assert np.abs(predict(images[1]).probabilities - found[1].probabilities).max() == 0
  by_hand = [np.asarray(Image.fromarray(c).resize((48, 70), Image.Resampling.BILINEAR))
             for c in np.ascontiguousarray(small.transpose(2, 0, 1))]  # fmt: skip
  by_hand = [np.asarray(Image.fromarray(c).resize((20, 70), Image.Resampling.BILINEAR))
             for c in by_hand]  # fmt: skip
  np.testing.assert_allclose(found[1].probabilities, np.stack(by_hand, -1), atol=1e-5)
  np.testing.assert_allclose(found[0].probabilities.sum(-1), 1, atol=1e-5)
  assert sum(found[0].shares.values()) == pytest.approx(1)
  np.testing.assert_array_equal(found[0].color, net.palette[found[0].label])


def test_views_are_averaged_as_by_hand():
  image, net = picture(64, 96), model(ramp)
  predict = Predictor(net, mode="native", tta="flip,scales=0.5,1")
  half = sizes.resize_image(image, (32, 48))
  by_hand = []
  for seen in (half, image):
    straight = ramp(seen[None])[0]
    mirrored = ramp(seen[None, :, ::-1])[0, :, ::-1]
    mean = (straight + mirrored) / 2
    matrices = (sizes.enlarging(n, m, 0, n) for n, m in zip((64, 96), mean.shape[:2], strict=True))
    by_hand.append(np.einsum("yh,hwc,xw->yxc", next(matrices), mean, next(matrices), optimize=True))
  np.testing.assert_allclose(predict(image).probabilities, np.mean(by_hand, 0), atol=1e-6)
  assert {shape[1:3] for shape in net.shapes} == {(32, 48), (64, 96)}
  tiled = Predictor(net, tile=TILE, tta="flip", batch_size=1)(image).probabilities
  mirrored = (ramp(image[None]) + ramp(image[None, :, ::-1])[:, :, ::-1]) / 2
  np.testing.assert_allclose(tiled, mirrored[0], atol=1e-6)


def ramp(images):
  """Probabilities that differ from left to right, so that a mirrored view differs."""
  x = images / 255.0 + np.linspace(0.1, 3, images.shape[2])[:, None] * np.array([1, 0, 0.5])
  return (x / x.sum(-1, keepdims=True)).astype(np.float32)


def two(images):
  second = images[..., :1] / np.float32(255)
  return np.concatenate([1 - second, second], -1)


def test_a_threshold_decides_on_the_second_class():
  one = dict(classes=("a", "b"), palette=np.eye(2, 3, dtype=np.uint8), one_logit=True)
  image = picture(16, 24)
  share = image[..., 0] / np.float32(255)
  for threshold, value in ((None, 0.5), (0.2, 0.2), ("max_f1", 0.7)):
    predict = Predictor(model(two, **one, max_f1_threshold=0.7), threshold=threshold)
    np.testing.assert_array_equal(predict(image).label, share >= value)
  with pytest.raises(UserError, match="'max_f1', which this net does not know"):
    Predictor(model(two, **one), threshold="max_f1")
  with pytest.raises(UserError, match="for nets with one logit"):
    Predictor(model(), threshold=0.4)
  with pytest.raises(UserError, match=r"threshold is 1\.5, expected a number between 0 and 1"):
    Predictor(model(two, **one), threshold=1.5)


def test_a_net_of_one_size_and_batch():
  net = model(size=TILE, batch=3)
  image = picture(150, 200)
  predict = Predictor(net)
  assert predict.view.mode == "tiles"
  assert predict(image).label.shape == (150, 200)
  net.view = View("native")
  assert Predictor(net).view == View("tiles", TILE, 0.25)
  net.view = View("resize", (32, 32))  # exported at another size than its run's
  assert Predictor(net).view.size == TILE
  Predictor(net, mode="resize")(image)
  Predictor(net, mode="native")(picture(*TILE))
  assert set(net.shapes) == {(3, *TILE, 3)}
  with pytest.raises(UserError, match="is 150x200, and this file takes 64x96 alone"):
    Predictor(net, mode="native")(image)
  with pytest.raises(UserError, match="images of 64x96 alone; leave the scales out"):
    Predictor(net, tta="scales=0.5,1")
  with pytest.raises(UserError, match="tile is 64x64, and this file takes 64x96 alone"):
    Predictor(net, tile=64)


@pytest.mark.parametrize(("how", "message"), [
  (dict(mode="whole"), "mode is 'whole', expected one of 'resize', 'native', 'tiles'"),
  (dict(mode="resize"), "mode 'resize' needs a size"),
  (dict(mode="native", tile=64), "tile is for mode 'tiles'"),
  (dict(tile=60), "tile is 60x60, expected multiples of 8 pixels, e.g. 64x64"),
  (dict(tile=0), "tile is 0x0, expected multiples of 8"),
  (dict(tile=np.int64(60)), "tile is 60x60, expected multiples of 8"),
  (dict(overlap=1.0), "overlap is 1.0, expected a share"),
  (dict(batch_size=0), "batch_size is 0"),
  (dict(tta="flop"), "tta is 'flop', expected 'flip'"),
  (dict(tta="scales=0.5,9"), "'9' is no scale, expected numbers from 0.25 to 4"),
  (dict(tta="flip,scales=x"), "'x' is no scale"),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_one_error(how, message):
  with pytest.raises(UserError, match=message):
    Predictor(model(), **how)


def test_arrays_of_another_kind_and_files_that_are_no_nets(tmp_path):
  predict = Predictor(model())
  for image in (np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
    with pytest.raises(UserError, match=r"expected uint8\[height,width,3\]"):
      predict([image])
  with pytest.raises(UserError, match=r"an image of uint8\[9, 7\], expected uint8\[height"):
    predict(np.zeros((9, 7), np.uint8))
  shown = predict(Image.fromarray(picture(9, 7)))
  np.testing.assert_array_equal(shown.label, predict(picture(9, 7)).label)
  (tmp_path / "x.txt").write_bytes(b"nothing")
  with pytest.raises(UserError, match="not an exported net"):
    Predictor(tmp_path / "x.txt")
  with pytest.raises(UserError, match="no such file or folder"):
    Predictor(tmp_path / "y.onnx")


def test_the_order_of_variants():
  assert averaging.parse("scales=0.5,1,flip") == averaging.Variants(True, (0.5, 1.0))
  assert averaging.parse("") == averaging.Variants()
