"""TensorBoard's events of a run, by CLU's writer; the only place that imports TensorFlow."""

from __future__ import annotations

import struct

import numpy as np

from segjax.training.background import Background

PNG_SIZE = 16  # where a PNG file has its width and height


class Clu:
  """CLU's writer, in a thread beside the steps.

  The figures of a run that never change (`info/...`) are hyper-parameters, not curves.
  """

  pictures = "single"

  def __init__(self, workdir, first_step):
    del first_step
    from clu import metric_writers
    from tensorboard.plugins.image.metadata import create_summary_metadata

    self._writer = metric_writers.SummaryWriter(str(workdir))
    self._picture = create_summary_metadata(display_name=None, description=None)
    self._thread = Background("tensorboard")

  def scalars(self, step, values):
    """Writes dict of name -> float."""
    curves = {k: v for k, v in values.items() if not k.startswith("info/")}
    if curves:
      self._thread.submit(self._writer.write_scalars, step, curves)

  def hparams(self, values, metrics):
    """Writes dict of name -> value: as a text, and for the HPARAMS tab, with columns of metrics."""
    plain = (int, float, str, bool)
    serialisable = {k: v if isinstance(v, plain) else str(v) for k, v in values.items()}
    table = "\n".join(["| field | value |", "|---|---|", *map(_table_row, serialisable.items())])
    self._thread.submit(self._writer.write_texts, 0, {"config": table})
    self._thread.submit(self._writer.write_summaries, 0, *_experiment(serialisable, metrics))
    self._thread.submit(self._writer.write_hparams, serialisable)

  def images(self, step, images):
    """Writes dict of name -> PNG file, as it is: `write_images` would take arrays and encode."""
    values = {}
    for name, png in images.items():
      size = (b"%d" % side for side in struct.unpack_from(">II", png, PNG_SIZE))
      values[name] = np.array([*size, png], object)
    self._thread.submit(
      self._writer.write_summaries, step, values, dict.fromkeys(values, self._picture)
    )

  def close(self):
    """Flushes and closes the event file."""
    try:
      self._thread.wait()
    finally:
      self._thread.close()
      self._writer.close()


def _table_row(item):
  """A row of a Markdown table, the value as code: a regular expression has signs of Markdown."""
  name, value = item
  text = str(value).replace("|", "\\|")
  return f"| {name} | {f'`{text}`' if text else ''} |"


def _experiment(values, metrics):
  """(values, metadata) of the summary that gives the HPARAMS tab its columns.

  Without it the tab has no column of a metric.
  """
  from tensorboard.plugins.hparams import summary_v2

  columns = [summary_v2.HParam(name) for name in sorted(values)]
  scores = [summary_v2.Metric(name) for name in metrics]
  (summary,) = summary_v2.hparams_config_pb(columns, scores).value
  return {summary.tag: np.zeros(0, np.float32)}, {summary.tag: summary.metadata}
