"""What faults.py damages: runs, their data and weight files, and what they are used for."""

import contextlib
import hashlib
import shutil

import flax.linen as nn
import jax
import numpy as np
from conftest import write_pairs
from PIL import Image
from test_torch_files import tensor, write_old, write_safetensors, write_zip
from test_training import tiny_config

from segjax import config as config_lib
from segjax import models, outputs, textfiles, training
from segjax import study as study_lib
from segjax.analysis import intact
from segjax.inference import command, inputs
from segjax.inference.folder import Predictions
from segjax.training import experiment as experiment_lib
from segjax.training import initial, restore
from segjax.training.writers import read_metrics


class OneConv(nn.Module):
  """A net that compiles fast."""

  num_classes: int = 1
  dtype: type = np.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    x = nn.Conv(self.num_classes, (3, 3), name="conv")(image)
    return nn.BatchNorm(use_running_average=not train, name="norm")(x)


def make_config(data, **changes):
  """A training of six steps, with a checkpoint at each and an evaluation at every second."""
  config = tiny_config(data, **{"augment.flip": 0.0, "batch_augment.cutmix": 0.0})
  config.model = dict(name="one_conv", dtype="float32")
  config.update(pictures=0, eval_steps=2, checkpoint_steps=1, log_steps=1, keep_steps=(2,))
  config.task.sigmoid, config.loss.class_weights = False, ("inverse",)
  config.update_from_flattened_dict(changes)
  return config


class World:
  """A data set, a finished run, one that stopped half-way, and files to damage.

  Attributes:
    root: folder of everything; `own` in it is where a try may write.
    expected: what the undamaged runs give, by use and run.
  """

  def __init__(self, root):
    """Opens the files; `make` writes them."""
    self.root, self.own = root, root / "own"
    self.expected = {}

  def make(self):
    """Writes the files and trains the runs."""
    data = write_pairs(self.root / "data", count=10)
    (data / "train.txt").write_text("".join(f"x{i:03d}\n" for i in range(7)))
    (data / "val.txt").write_text("".join(f"x{i:03d}\n" for i in range(7, 10)))
    training.train(self.config(), self.root / "whole")
    training.train(self.config(total_steps=4), self.root / "half")
    use_evaluate(self, self.root / "whole")
    write_images(self.root / "images")
    write_weights(self.root / "weights")

  def config(self, **changes):
    """See `make_config`."""
    return make_config(self.root / "data", **changes)

  def copy(self, name):
    """A copy of a file or folder for a try to damage."""
    shutil.rmtree(self.own, ignore_errors=True)
    self.own.mkdir()
    copy = self.own / name
    shutil.copytree(self.root / name, copy) if (self.root / name).is_dir() else shutil.copy(
      self.root / name, copy
    )
    return copy


def write_images(folder):
  """The image and mask files that are mutated."""
  folder.mkdir()
  rng = np.random.default_rng(0)
  color = Image.fromarray(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8))
  mask = Image.fromarray(rng.integers(0, 2, (40, 60)).astype(np.uint8))
  for ending in ("png", "jpg", "bmp", "tif", "webp", "gif"):
    color.save(folder / f"color.{ending}")
  color.save(folder / "packed.tif", compression="tiff_lzw")
  for ending in ("png", "bmp", "tif"):
    mask.save(folder / f"mask.{ending}")
  mask.convert("1").save(folder / "mask_bits.png")
  mask.save(folder / "mask_packed.tif", compression="tiff_deflate")


def write_weights(folder):
  """The weight files that are mutated."""
  folder.mkdir()
  raw = np.arange(6, dtype="f4").tobytes()
  part = tensor(offset=1, size=(2,), stride=(1,))
  write_zip(folder / "new.pth", {"a.weight": tensor(), "b": part}, {"0": raw})
  write_old(folder / "old.pth", {"state_dict": {"a.weight": tensor()}}, {"0": raw})
  header = {"a": dict(dtype="F32", shape=[2, 3], data_offsets=[0, 24])}
  write_safetensors(folder / "a.safetensors", header, raw)


# ---------------------------------------------------------------------------- uses


def digest(tree):
  """Of the arrays in a tree."""
  found = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    found.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
  return found.hexdigest()


def rows_of(run):
  """Rows of metrics.jsonl without times."""
  rows = read_metrics(run / "metrics.jsonl")
  return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in rows]


def use_evaluate(world, run):
  """launch/evaluate.py."""
  del world
  experiment, state = restore.run(run)
  data = restore.data_of_run(run, experiment.config, "val")
  sums, _ = outputs.evaluate_run(run, experiment, state, data, "val")
  return digest(sums)


def use_predict(world, run):
  """launch/predict.py."""
  net = command.open_net(str(run), None, "best")
  folder = world.own / "predicted"
  folder.mkdir(parents=True)
  found = inputs.find(world.root / "data" / "images" / "x000.png", folder)
  net.run(found, Predictions(folder))
  return digest([np.asarray(Image.open(f)) for f in sorted(folder.glob("*.png"))])


def use_resume(world, run):
  """launch/train.py."""
  state = training.train(world.config(), run)
  return digest(state), rows_of(run), sorted(restore.checkpoint_steps(run))


def use_initial(world, run):
  """`init_from`."""
  del world
  return digest(initial._read_run(run)), initial.fingerprint(str(run))


def use_study(world, run):
  """A report of a study."""
  result = study_lib.Result("a", 0, world.config(), run)
  intact._check_files(result)
  final = {k: v for k, v in result.final().items() if not k.startswith("time/")}
  return result.complete(), final, result.best(), digest(result.sums()), rows_of(run)


def use_files(world, run):
  """What else is written in a run."""
  del world
  return [textfiles.read_state(f) for f in sorted(run.glob("evaluation_*.json"))]


USES = dict(evaluate=use_evaluate, predict=use_predict, resume=use_resume, initial=use_initial,
            study=use_study, files=use_files)  # fmt: skip


@contextlib.contextmanager
def prepared():
  """Context in which the net is known and experiments of one config share what is compiled."""
  build, made, kept = experiment_lib.build, {}, {}
  kind, names = experiment_lib.Experiment, ("train_step", "eval_step", "predict_step",
                                            "abstract_state")  # fmt: skip
  plain = {name: getattr(kind, name) for name in names}

  def shared(config, *args, **kwargs):
    key = repr((config_lib.flatten(config), args, kwargs))
    if key not in made:
      made[key] = build(config, *args, **kwargs)
    return made[key]

  def remembered(name):
    def method(self, *args, **kwargs):
      key = id(self), name, args, tuple(kwargs.items())
      if key not in kept:
        kept[key] = self, plain[name](self, *args, **kwargs)  # kept alive, so its id stays its own
      return kept[key][1]

    return method

  models.MODELS["one_conv"] = OneConv
  experiment_lib.build = shared
  for name in names:
    setattr(kind, name, remembered(name))
  try:
    yield
  finally:
    del models.MODELS["one_conv"]
    experiment_lib.build = build
    for name in names:
      setattr(kind, name, plain[name])
