"""Every config: it parses and locks; its net, task and steps fit; a light net trains by it."""

from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import DATA, ROOT, write_pairs
from light import tiers

from segjax import config as config_lib
from segjax import training
from segjax.errors import UserError
from segjax.training import experiment as experiment_lib
from segjax.training import restore
from segjax.training.evaluation import evaluate
from segjax.training.input_pipeline import eval_batches, make_source
from segjax.training.writers import read_metrics

CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py"))
# Nets that take long to trace. Stand-ins are trained.
LARGE = (
  "attention_objects", "camvid", "deeplab_flood", "deeplabv3_landcover", "eomt_camvid",
  "fcn32s_camvid", "fcn32s_landcover", "linear_dino", "multi_label", "pixelwise_objects",
  "pretraining", "realtime_camvid", "resnet18_classification", "resnext101_classification",
  "segmentation_folder", "small_cnn_classification", "unet_camvid", "unet_colorization",
  "unet_flood", "unet_image_to_image", "unet_road_four", "unet_road_pretrained",
  "unet_road_strong",
)  # fmt: skip
RESUMED = ("unet_flood", "unet_road_four")
# Trained, evaluated and saved by `test_study`, which reads all studies.
STUDIED = {
  Path(spec.partition(":")[0]).stem
  for file in (ROOT / "configs" / "studies").glob("*.py")
  for spec in config_lib.call_file(f"{file}:smoke", "get_study").variants.values()
}
TRAINED = [n for n in CONFIGS if n not in RESUMED and (n not in STUDIED or n not in LARGE)]


def smoke_config(name, arg=""):
  return config_lib.read(f"{ROOT}/configs/{name}.py:smoke{arg and ','}{arg}")


# Of these one per task and kind of net, on each change; the others weekly.
SLOW = ("camvid", "linear_dino", "multi_label", "unet_colorization", "unet_road_four")


def marked(names):
  return tiers(names, {*CONFIGS} - {*LARGE}, SLOW)


def on_own_data(config, tmp_path, **how):
  """The config; one that reads the user's own images gets a small set of them."""
  if config.data.source.name == "folder":
    config.data.source.folder = str(write_pairs(tmp_path / "own", count=20, **how))
  return config


def light_config(name, tmp_path):
  """The smoke variant of a config, from random weights; its net comes from `stand_in_nets`."""
  config = on_own_data(smoke_config(name), tmp_path)
  config.init_from = ""
  config.optimizer.layer_decay = 1.0  # a stand-in has no blocks
  return config


@pytest.mark.parametrize("name", marked(CONFIGS))
def test_steps_of_the_full_config_fit_its_net_task_and_data(name, tmp_path):
  """Everything as in the real training, by shapes: nothing is computed or compiled."""
  config = on_own_data(config_lib.read(f"{ROOT}/configs/{name}.py"), tmp_path)
  if "num_train" in config.data.source:  # class weights are counted in all of them
    config.data.source.num_train = 2 * config.data.batch_size
  source, val = make_source(config, "train", training=True), make_source(config, "val")
  steps_per_epoch = len(source) // config.data.batch_size
  experiment = experiment_lib.build(config, source.source.labels, steps_per_epoch)
  shape = (config.data.batch_size, *config.data.size)
  label = val[0]["label"]
  batch = dict(
    image=jax.ShapeDtypeStruct((*shape, 3), np.uint8),
    label=jax.ShapeDtypeStruct((*shape, *label.shape[2:]) if label.ndim else shape[:1], np.uint8),
    valid=jax.ShapeDtypeStruct(shape[:1], bool),
  )
  state, step = experiment.abstract_state(), experiment.train_step()
  new, sums = jax.eval_shape(step, state, batch)
  same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, new)
  assert all(jax.tree.leaves(same))
  assert sums["grad_norm"].shape == () == jax.eval_shape(experiment.task.loss, sums).shape
  sums = jax.eval_shape(experiment.eval_step(), state, batch)
  nothing = {k: np.zeros(x.shape, x.dtype) for k, x in sums.items()}
  assert config.best_metric in {f"val/{k}" for k in experiment.task.summary(nothing)}


@pytest.mark.parametrize("name", marked(TRAINED))
def test_smoke_variant_trains_evaluates_and_saves(name, tmp_path, stand_in_nets):
  config, workdir = light_config(name, tmp_path), tmp_path / "run"
  config.writers, config.pictures, config.total_steps = (), 0, 3
  state = training.train(config, workdir)
  rows = read_metrics(workdir / "metrics.jsonl")
  assert [r["step"] for r in rows if "val/loss" in r] == [3]
  assert [r["step"] for r in rows if "train/loss" in r][-1] == 3
  assert restore.checkpoint_steps(workdir) == [3]
  assert int(state.step) == 3


@pytest.mark.slow
def test_own_images_of_more_than_two_classes(tmp_path, light_backbones):
  classes = ("ground", "thing", "sky", "rest")
  config = on_own_data(smoke_config("segmentation_folder"), tmp_path, classes=classes)
  config.model.update(backbone="light", widths=(8, 8, 4))
  config.writers, config.pictures, config.total_steps = (), 0, 2
  state = training.train(config, tmp_path / "run")
  row = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
  assert {k for k in row if k.startswith("val/iou/")} == {f"val/iou/{name}" for name in classes}
  assert 0 <= row["val/mean_iou"] <= 1
  assert state.params["head"]["kernel"].shape[-1] == len(classes)


@pytest.mark.parametrize("name", marked(RESUMED))
def test_smoke_variant_resumes_and_evaluates_alike(name, tmp_path, stand_in_nets):
  config = light_config(name, tmp_path)
  config.writers, config.total_steps = ("pictures",), 3
  config.schedule.name = "constant"  # others depend on the length, which may not change then
  training.train(config, tmp_path)
  config.total_steps = 4
  state = training.train(config, tmp_path)
  rows = read_metrics(tmp_path / "metrics.jsonl")
  assert [r["step"] for r in rows if "val/loss" in r] == [3, 4]
  experiment, restored = restore.run(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
  source = make_source(config, "val")
  batches = eval_batches(experiment.config, source)
  sums = evaluate(experiment.eval_step(), restored, batches, experiment.mesh)
  for key, value in experiment.task.summary(sums).items():
    assert rows[-1][f"val/{key}"] == (None if np.isnan(value) else value), key


@pytest.mark.parametrize("name", CONFIGS)
def test_header_prints_the_command(name):
  text = (ROOT / "configs" / f"{name}.py").read_text()
  assert f"python launch/train.py --config=configs/{name}.py" in text
  assert f"--config=configs/{name}.py:smoke" in text


@pytest.mark.parametrize(
  ("name", "arg"),
  [
    ("unet_flood", "augment=0"),
    ("deeplab_flood", "backbone=vgg11_bn,aspp=0"),
    ("deeplab_flood", "backbone=mobilenet_v3_small"),
    ("deeplab_flood", "backbone=efficientnet_lite0,weights=imagenet"),
    ("segmentation_folder", "pretrained"),
    ("unet_road", "skip=0"),
    ("unet_road_pretrained", "net=deeplab"),
  ],
)
def test_variants_parse(name, arg):
  full = config_lib.flatten(config_lib.read(f"{ROOT}/configs/{name}.py:{arg}"))
  assert full != config_lib.flatten(config_lib.read(f"{ROOT}/configs/{name}.py"))


def test_configs_for_real_sets(tmp_path):
  for name, data in [("unet_camvid", "camvid"), ("unet_flood", "dubai_aerial"),
                     ("unet_road_four", "camvid")]:  # fmt: skip
    if not (DATA / data).is_dir():
      pytest.skip(f"SEGJAX_DATA names no folder with {data}/: no real photographs here")
    config = smoke_config(name, f"data={data}")
    assert len(make_source(config, "train", training=True)) > 50


def test_errors():
  with pytest.raises(UserError, match=r"no such file 'configs/unet_rod\.py'.*unet_road\.py"):
    config_lib.read("configs/unet_rod.py")
  with pytest.raises(UserError, match="no package carries ImageNet weights of 'resnet18'"):
    config_lib.read(f"{ROOT}/configs/deeplab_flood.py:weights=imagenet")
