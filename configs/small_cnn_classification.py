"""Classification of small images by two convolutions and three dense layers.

The net and the settings of a course report: 32x32, batch 64, SGD with momentum 0.9, learning rate
0.01, weight decay 1e-4. Digits, seeds 0 to 2, two Xeon cores, 2026-11-25: accuracy 0.992 (0.989 to
0.994) after half a minute. A course report: 0.554 on photographs of 50 classes.

  python launch/train.py --config=configs/small_cnn_classification.py
  python launch/train.py --config=configs/small_cnn_classification.py:data=cifar10_subset
  python launch/train.py --config=configs/small_cnn_classification.py:smoke

The default is scikit-learn's digits; `data=cifar10_subset` reads $SEGJAX_DATA/cifar10_subset,
`data=folder` anybody's own images, one folder per class, or --config.data.source.folder.
"""

from segjax import config as config_lib


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="digits", smoke=False)
  c = config_lib.default()
  c.name = "small_cnn_classification"

  classes = dict(kind="classification") if a.data == "folder" else {}
  c.data.source = config_lib.data_source(a.data, **classes)
  if a.data == "digits":
    c.data.source.size = 32
  c.data.size = (32, 32)
  c.data.batch_size = 64

  c.model = dict(name="classifier", backbone="small_cnn", dtype="float32")

  config_lib.set_task(c, "classification")
  c.best_metric = "val/accuracy"
  c.pictures = 8

  c.optimizer.name = "sgd"
  c.optimizer.momentum = 0.9
  c.optimizer.weight_decay = 1e-4
  c.schedule.name = "constant"
  c.schedule.learning_rate = 0.01
  c.total_epochs = 20.0
  c.eval_epochs = 2.0

  if a.data != "digits":  # a mirrored digit is none
    c.augment.flip = 0.5
  return config_lib.smoke(c) if a.smoke else c
