"""Summaries of a study's results for its report: names, starts, scores, costs of the variants.

`done` is {variant: its finished runs}, a `study.Result` each.
"""

from __future__ import annotations

import json
import re

import jax

from segjax.analysis import probes as probes_lib
from segjax.analysis.names import text_of
from segjax.benchmark import cost
from segjax.training import preflight, restore
from segjax.weights import PRETRAINED


def scalars_of(study, done):
  """Names of the scalars of an evaluation that are not of one class, the study's metric first.

  Mean IoUs of images have a table of their own, see `report_images`.
  """
  names = [k for runs in done.values() for k in runs[0].final()]
  names = [k for k in names if k.startswith("val/") and k.count("/") == 1]
  names = [k for k in names if not k.startswith("val/mean_iou_")]
  return list(dict.fromkeys([study.metric, *(n for n in names if "threshold" not in n)]))


def start_of(runs):
  """The initial weights of a variant's runs, in words."""
  if runs[0].config is None:
    return "-"
  start = runs[0].config.init_from
  if start in PRETRAINED:
    return "ImageNet weights"
  return f"weights of {start}" if start else "random weights"


def task_of(runs):
  """The name of a variant's task."""
  return runs[0].config.task.name


def loss_of(runs):
  """What a variant's loss is: its task, and the fields of its loss as text."""
  config = runs[0].config
  return config.task.name, json.dumps(config.loss.to_dict(), sort_keys=True, default=str)


def data_now(run):
  """Where a run's data lie now."""
  source = run.config.data.source
  return {k: source[k] for k in ("folder", "data_dir") if k in source}


def sign_of(config, metric=None):
  """1 where high values of a metric, by default the one that picks the best, are good, else -1."""
  if metric in (None, config.best_metric):
    return 1 if config.best_mode == "max" else -1
  name = metric.removeprefix("val/").partition("/")[0]
  return -1 if preflight.FALLING.search(name) else 1


def knn_of(done, probes):
  """(variant, seed) -> kNN accuracy of the last layer, before and after."""
  return {
    (v, run.seed): probe.accuracy[probes_lib.LAST]
    for v in probes for run, probe in zip(done[v], probes[v], strict=True) if probe.accuracy
  }  # fmt: skip


def common_score(done, knn):
  """The score that ranks the variants: (text, 1 if high values are good else -1, values).

  None where they have nothing in common.
  """
  if all((v, r.seed) in knn for v, runs in done.items() for r in runs):
    return "kNN accuracy", 1, {v: [knn[v, r.seed][1] for r in runs] for v, runs in done.items()}
  config = next(iter(done.values()))[0].config
  if len({(runs[0].config.best_metric, runs[0].config.best_mode) for runs in done.values()}) > 1:
    return None
  if "loss" in config.best_metric and len({loss_of(runs) for runs in done.values()}) > 1:
    return None
  values = {v: [r.best() for r in runs] for v, runs in done.items()}
  return f"best {text_of(config.best_metric)}", sign_of(config), values


def costs_of(run):
  """Costs of a run's model on the default device, and on the CPU if that is another; kept."""
  devices = [jax.devices()[0]]
  if devices[0].platform != "cpu":
    devices.append(jax.devices("cpu")[0])
  out, loaded = [], None
  for device in devices:
    key = re.sub(r"\W+", "_", f"{device.device_kind}_jax_{jax.__version__}")
    file = run.workdir / f"cost_{key}.json"
    measured = cost.load(file)
    if measured is None:
      loaded = loaded or restore.run(run.workdir)
      measured = cost.measure(*loaded, run.config.data.size, device=device)
      measured.save(file)
    out.append(measured)
  return out
