"""Evaluations of a training: the numbers, warnings and pictures of its validation split."""

from __future__ import annotations

import jax

from segjax.pictures import panel, spread
from segjax.training import coverage, input_pipeline
from segjax.training.background import Background
from segjax.training.evaluation import evaluate, example_panels, write_sums


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
    self._eval_step, self._predict_step = eval_step, experiment.predict_step()
    self._writers, self._progress, self._counted = writers, progress, counted
    self._image_thread = Background("pictures")
    self.sums = None

  def run(self, state, step):
    """Evaluates a state; returns the scalars, dict of "val/<name>" -> float."""
    exp, config = self._experiment, self._experiment.config
    batches = input_pipeline.eval_batches(config, self._source)
    self.sums = evaluate(self._eval_step, state, batches, exp.mesh)
    write_sums(self._workdir, step, self.sums)
    if not self._counted:
      self._counted = True
      for warning in coverage.of_sums("val", exp.labels.names, self.sums):
        self._progress.print(f"  warning: {warning}")
    summary = exp.task.summary(self.sums)
    metrics = {f"val/{k}": v for k, v in summary.items()}
    self._writers.scalars(step, metrics | {"time/minutes": self._progress.minutes()})
    if config.pictures:
      self._write_images(state, step, spread(len(self._source), config.pictures))
    best = config.best_metric.removeprefix("val/")
    line = {best: summary[best]} | exp.task.line(summary)
    text = "  ".join(f"{k} {v:.4f}" for k, v in line.items())
    self._progress.print(f"  val  step {step}  {text}")
    if exp.task.warning(summary):
      self._progress.print(f"  warning: {exp.task.warning(summary)}")
    return metrics

  def _write_images(self, state, step, chosen):
    """Predicts fixed examples; they are drawn and written while training continues."""
    examples = [self._source[i] for i in chosen]
    outputs = [self._predict_step(state, e["image"][None]) for e in examples]
    jax.block_until_ready(outputs)  # as the rest of an evaluation, in no step's time
    self._image_thread.wait()
    names = [self._source.source.names[i] for i in chosen]
    self._image_thread.submit(self._write_panel, step, names, examples, outputs)

  def _write_panel(self, step, names, examples, outputs):
    rows = []
    for name, example, output in zip(names, examples, outputs, strict=True):
      first, *row = example_panels(self._experiment.task, output, example)
      rows.append([(f"{name}, step {step}", first[1]), *row])
    self._writers.images(step, {"val/examples": panel(rows)})

  def wait(self):
    """Blocks until all pictures are written."""
    self._image_thread.wait()

  def close(self):
    """Ends the thread that draws."""
    self._image_thread.close()
