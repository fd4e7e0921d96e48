"""SGD and Adam with a constant rate, with steps, with steps at milestones.

A ResNet-18 that classifies small images, or the small road U-Net.

  python launch/study.py --study=configs/studies/optimizers.py
  python launch/study.py --study=configs/studies/optimizers.py:data=cifar10_subset
  python launch/study.py --study=configs/studies/optimizers.py:data=kitti_road
  python launch/study.py --study=configs/studies/optimizers.py:smoke

Rates are 1e-2 for SGD with momentum 0.9 and, for Adam, 1e-4 for the classifier and 1e-3 for the
U-Net; they fall to a tenth after each third of the training, or at its half and three quarters.
"""

from segjax import config as config_lib
from segjax.study import Study


def falls(c):
  """When the rate falls, by the length of the training, unless an override says when."""
  schedule = c.schedule
  if schedule.every_steps or schedule.every_epochs:
    return {}
  if schedule.milestone_steps or schedule.milestone_epochs:
    return {}
  kind = "steps" if c.total_steps else "epochs"
  total = c[f"total_{kind}"]
  third, half, late = map(type(total), (total / 3, total / 2, total * 3 / 4))
  return {
    "step": {f"schedule.every_{kind}": third},
    "multi_step": {f"schedule.milestone_{kind}": (half, late)},
  }.get(c.schedule.name, {})


def get_study(arg=""):
  a = config_lib.parse_arg(arg, data="digits", smoke=False)
  roads = a.data in ("road_scenes", "kitti_road")
  name = "unet_road" if roads else "resnet18_classification"
  spec = f"configs/{name}.py:{config_lib.write_arg(data=a.data, smoke=a.smoke)}"
  schedules = {"constant": "constant", "step": "step", "multi-step": "multi_step"}
  optimizers = {
    "SGD": {"optimizer.name": "sgd", "schedule.learning_rate": 1e-2},
    "Adam": {"optimizer.name": "adam", "schedule.learning_rate": 1e-3 if roads else 1e-4},
  }
  changes = {
    f"{o}, {s}": how | {"schedule.name": name}
    for o, how in optimizers.items()
    for s, name in schedules.items()
  }
  return Study(
    title="Optimisers and schedules",
    question="How much do the optimiser and the fall of its learning rate matter?",
    variants=dict.fromkeys(changes, spec),
    changes=changes,
    derived=dict.fromkeys(changes, falls),
    seeds=(0, 1) if a.smoke else (0, 1, 2),
    metric="val/f1/road" if roads else "val/accuracy",
  )
