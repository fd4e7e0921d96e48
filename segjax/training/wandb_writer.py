"""Weights & Biases as a writer, for `config.writers`; needs the extra `wandb`."""

from __future__ import annotations

import io
import os
import secrets

from segjax import textfiles
from segjax.errors import UserError

RUN_ID = "wandb_id.txt"  # in the workdir: a resumed run goes on in the same curves


def load():
  """The module wandb; a UserError where it cannot be imported."""
  try:
    import wandb
  except ImportError as error:
    raise UserError(
      f"config.writers has 'wandb', which cannot be imported ({error}); install the extra by "
      "pip install 'segjax[wandb]' (in segjax's folder: '.[wandb]'), or take 'wandb' out of "
      "--config.writers"
    ) from None
  return wandb


class Wandb:
  """A run of Weights & Biases, named after the workdir, whose files lie in `workdir/wandb`.

  It is written offline, for `wandb sync`, unless the environment sets WANDB_MODE; wandb reads
  WANDB_PROJECT, WANDB_ENTITY and its other variables as usual.
  """

  pictures = "single"

  def __init__(self, workdir, first_step):
    """Starts the run, or takes up the one of the workdir where training resumes; see `load`."""
    self._wandb = load()
    self._run = self._wandb.init(
      project=os.environ.get("WANDB_PROJECT", "segjax"),
      name=workdir.name,
      id=_run_id(workdir, first_step),
      resume="allow",
      dir=str(workdir),
      mode=os.environ.get("WANDB_MODE", "offline"),
    )
    # Rows of a killed run that come again are in order by this, not by wandb's own count.
    self._run.define_metric("step")
    self._run.define_metric("*", step_metric="step")

  def scalars(self, step, values):
    """Logs dict of name -> float; the figures of the run (`info/...`) are in its config."""
    curves = {k: v for k, v in values.items() if not k.startswith("info/")}
    if curves:
      self._run.log(curves | {"step": step})

  def hparams(self, values, metrics):
    """Sets the config of the run; any logged scalar can be a column in wandb."""
    del metrics
    self._run.config.update(values, allow_val_change=True)

  def images(self, step, images):
    """Logs dict of name -> PNG file."""
    from PIL import Image

    shown = {k: self._wandb.Image(Image.open(io.BytesIO(png))) for k, png in images.items()}
    self._run.log(shown | {"step": step})

  def close(self):
    """Ends the run."""
    self._run.finish()


def _run_id(workdir, first_step):
  """The id of the workdir's run: that of its file where training resumes, else a new one."""
  file = workdir / RUN_ID
  if not (first_step and file.is_file()):
    textfiles.replace_text(file, secrets.token_hex(4) + "\n")
  return file.read_text(encoding="utf-8").strip()
