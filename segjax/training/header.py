"""The header and the summary of a training, printed and written besides its rows."""

from __future__ import annotations

import flax.traverse_util

from segjax import models
from segjax.data import rasters
from segjax.training import class_balance
from segjax.training.progress import peak_memory

NOTES = 10  # lines about files that are not taken


def print_header(
  experiment,
  *,
  workdir,
  info,
  params,
  data_on_device,
  resumed=0,
  notes=(),
  warnings=(),
  report=None,
):
  """Prints net, data, settings and warnings of a training.

  Args:
    experiment: Experiment.
    workdir: path of the run.
    info: dict of the figures of its info row.
    params: parameters of the net.
    data_on_device: whether the train split lies on the device.
    resumed: step that the run resumes from; 0 for a new run.
    notes: sentences about the data.
    warnings: sentences.
    report: report of the initial weights, text or None.
  """
  c, data = experiment.config, experiment.config.data
  count = models.count_params(params)
  size = f"{data.size[0]}x{data.size[1]}"
  fit = f"random crops of {size}" if data.fit == "crop" else f"at {size}"
  how = dict(
    full="at their own sizes", crop="on their middle", resize="resized", tiles=f"in tiles of {size}"
  )
  if (data.fit, data.eval_fit) != ("resize", "resize"):
    fit += f", evaluated {how[data.eval_fit]}"
  where = "kept on the device" if data_on_device else "sent by the host"
  print(f"{c.name} in {workdir}")
  _line("model", f"{c.model.name}: {count:,} parameters, {count * 4 / 1e6:.2f} MB")
  _line(
    "data",
    f"{data.source.name}: {info['train_examples']} train and {info['val_examples']} val examples "
    f"{fit}, classes {', '.join(experiment.labels.names)}",
  )
  if not (pixels := rasters.of(data)).is_rgb:
    _line("images", pixels.text)
  for note in notes[:NOTES]:
    _line("note", note)
  if len(notes) > NOTES:
    _line("note", f"... and {len(notes) - NOTES} more")
  _line("feeding", f"{where} (data.feed={data.feed!r})")
  _line(
    "steps",
    f"{info['steps_per_epoch']} per epoch at batch {data.batch_size}, {info['total_steps']} in all",
  )
  _line("devices", f"{experiment.mesh.size} x {experiment.mesh.devices.flat[0].device_kind}")
  if experiment.frozen:
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    held = sum(flat[n].size for n in experiment.frozen)
    _line("frozen", f"{held:,} of them, found by {c.freeze!r}")
  if rule := class_balance.rule(c.loss):
    weights = zip(experiment.labels.names, experiment.task.class_weights, strict=True)
    text = ", ".join(f"{name} {w:.3g}" for name, w in weights)
    _line("weights", f"of the classes, by {rule!r}: {text}")
  if report:
    _line("initial", f"{c.init_from}: {report}")
  if resumed:
    _line("resumes", f"from the checkpoint of step {resumed}")
  for warning in warnings:
    _line("warning", warning)


def print_summary(task, sums, minutes, best_metric, checkpoints):
  """Prints the table of the last evaluation, and where the checkpoints are.

  Args:
    task: a task of `segjax.tasks`.
    sums: sums of the last evaluation.
    minutes: minutes of the training.
    best_metric: name of the metric by which a checkpoint is the best.
    checkpoints: Checkpoints of the run.
  """
  best = checkpoints.step_of("best")
  print(task.table(sums))
  kept = f"best {best_metric} at step {best}, kept with the latest"
  if best is None:
    kept = f"no best checkpoint, as {best_metric} was never a number; the latest is kept"
  time = f"{minutes:.1f} minutes" if minutes >= 1 else f"{60 * minutes:.0f} seconds"
  print(f"  trained for {time}; {kept} in {checkpoints.folder}")
  if memory := peak_memory():
    print("  peak memory of the device: {:.1f} of {:.1f} GB".format(*memory))


def _line(what, text):
  text = str(text).replace("\n", "\n" + " " * 14)
  print(f"  {what:<12}{text}", flush=True)
