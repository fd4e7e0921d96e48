"""Evaluations of a training: the numbers, warnings and pictures of its validation split."""

from __future__ import annotations

import jax

from segjax import hosts, textfiles
from segjax.legends import with_legend
from segjax.pictures import confusion, panel, spread
from segjax.training import coverage, input_pipeline
from segjax.training.background import Background
from segjax.training.evaluation import classes_seen, evaluate, example_panels, write_sums

NORM_STEPS = 200  # until batch norm's averages, which move by a tenth in a step, are settled
FAR = 4  # times the training loss: a validation loss beyond it is explained


class Evaluator:
  """Evaluates, prints and writes.

  Attributes:
    sums: sums of the last evaluation, see the task's `statistics`; None before the first.
  """

  def __init__(self, experiment, eval_step, source, workdir, counted, *, writers, progress):
    """Starts the thread that draws pictures.

    Args:
      experiment: Experiment.
      eval_step: eval step of the experiment.
      source: source of the validation split.
      workdir: path of the run, where the sums are kept.
      counted: whether all labels of the split have been looked at; if not, the first evaluation
        warns of classes that are missing.
      writers: Writers of rows and pictures.
      progress: Progress, which prints.
    """
    self._experiment, self._source, self._workdir = experiment, source, workdir
    self._eval_step, self._predict_step = eval_step, experiment.shown_step()
    self._writers, self._progress, self._counted = writers, progress, counted
    self._image_thread, self._explained = Background("pictures"), False
    self.sums = None

  def run(self, state, step):
    """Evaluates a state; returns the scalars, dict of "val/<name>" -> float."""
    exp, config = self._experiment, self._experiment.config
    batches = input_pipeline.eval_batches(config, self._source)
    self.sums = evaluate(self._eval_step, state, batches, exp.eval_mesh())
    if hosts.is_first():
      write_sums(self._workdir, step, self.sums)
    if not self._counted:
      self._counted = True
      for warning in coverage.of_sums("val", exp.labels.names, self.sums):
        self._progress.print(f"  warning: {warning}")
    summary = exp.task.summary(self.sums)
    metrics = {f"val/{k}": v for k, v in summary.items()}
    self._writers.scalars(step, metrics | {"time/minutes": self._progress.minutes()})
    if config.pictures and any(map(self._writers.takes, ("sheets", "single"))):
      self._write_images(state, step, spread(len(self._source), config.pictures))
    best = config.best_metric.removeprefix("val/")
    line = {best: summary[best]} | exp.task.line(summary)
    text = "  ".join(f"{k} {v:.4f}" for k, v in line.items())
    self._progress.print(f"  val  step {step}  {text}")
    self._explain(state, step, summary["loss"])
    if warning := exp.task.warning(summary):
      self._progress.print(f"  warning: {warning}")
    return metrics

  def _explain(self, state, step, loss):
    """Says once why a loss is far above the training's, where averages lag behind the parameters.

    Averages over n steps hardly know the parameters before a few n steps; later it is the data.
    """
    config = self._experiment.config
    averages = ["batch norm's running averages"] if jax.tree.leaves(state.batch_stats) else []
    averages += ["the averaged parameters (ema_decay)"] if config.ema_decay else []
    count = config.optimizer.get("accumulate_steps", 1)
    lagging = max(NORM_STEPS, 5 * count / (1 - config.ema_decay))
    far = loss > FAR * self._progress.loss
    if far and averages and step <= lagging and not self._explained:
      self._explained = True
      self._progress.print(
        f"  note: this loss, {loss:.3g}, is far above the training loss of the last steps, "
        f"{self._progress.loss:.3g}: an evaluation uses {' and '.join(averages)}, which lag behind "
        "in the first epochs; if it stays so, the net does not generalise"
      )

  def _write_images(self, state, step, chosen):
    """Predicts fixed examples; they are drawn and written while training continues."""
    examples = [self._source[i] for i in chosen]
    outputs = [self._predict_step(state, e["image"][None]) for e in examples]
    jax.block_until_ready(outputs)  # as the rest of an evaluation, in no step's time
    if not hosts.is_first():  # whose devices were needed
      return
    self._image_thread.wait()
    names = [textfiles.shown(self._source.source.names[i]) for i in chosen]
    matrix = self.sums.get("matrix")
    self._image_thread.submit(self._write_panel, step, names, examples, outputs, matrix)

  def _write_panel(self, step, names, examples, outputs, matrix):
    """Draws a sheet with a row for each example; each example by itself; the confusion matrix."""
    task, labels = self._experiment.task, self._experiment.labels
    rows, all_seen, single = [], set(), {}
    for i, (name, example, output) in enumerate(zip(names, examples, outputs, strict=True)):
      first, *row = example_panels(task, output, example)
      row = [(f"{name}, step {step}", first[1]), *row]
      seen = classes_seen(task, output, example["label"])
      if self._writers.takes("single"):
        pairs = [row[k : k + 2] for k in range(0, len(row), 2)]
        single[f"examples/{i}_{name}"] = with_legend(panel(pairs), labels, seen)
      rows.append(row)
      all_seen |= seen
    if single and matrix is not None and len(matrix) == len(task.classes):
      single["val/confusion"] = confusion(matrix, task.classes)
    sheets = {}
    if self._writers.takes("sheets"):
      sheets["val/examples"] = with_legend(panel(rows), labels, all_seen)
    self._writers.images(step, sheets=sheets, single=single)

  def wait(self):
    """Blocks until all pictures are written."""
    self._image_thread.wait()

  def close(self):
    """Ends the thread that draws."""
    self._image_thread.close()
