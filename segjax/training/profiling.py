"""A trace of some steps of a training, for TensorBoard, xprof and Perfetto."""

from __future__ import annotations

import jax

from segjax.errors import UserError


class Profile:
  """Traces the steps from the first to the last of two; a context, which ends the trace.

  Both ends wait for the device, so that nothing but these steps is in it.

  Attributes:
    steps: (step before the first, last step), or () without a trace.
  """

  def __init__(self, steps, folder, *, done, total):
    """Takes the steps of a trace and checks them.

    Args:
      steps: (first, last), numbers or their texts, or ().
      folder: folder of the trace.
      done: steps of the run that are behind it.
      total: steps of the run.

    Raises:
      UserError: no such numbers, or not the numbers of steps to come.
    """
    try:
      first, last = map(int, steps) if steps else (0, 0)
    except ValueError:
      first, last = 1, 0
    if steps and not 1 <= first <= last:
      raise UserError(
        f"profile_steps is {','.join(map(str, steps))}, expected the first and the last step, "
        "e.g. 20,25"
      )
    if steps and not done < first <= last <= total:
      raise UserError(
        f"profile_steps is {first},{last}, expected steps after {done}, where the run stands, "
        f"up to {total}, its end"
      )
    self.steps = (first - 1, last) if steps else ()
    self._folder, self._on = folder, False

  def before(self, step, waited):
    """To be called before a step; `waited` are arrays to wait for."""
    if self.steps and step == self.steps[0] + 1:
      jax.block_until_ready(waited)
      jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
      self._on = True

  def after(self, step, waited):
    """To be called after a step."""
    if self._on and step >= self.steps[1]:
      jax.block_until_ready(waited)
      self._stop()

  def _stop(self):
    self._on = False
    jax.profiler.stop_trace()
    print(f"  trace of steps {self.steps[0] + 1} to {self.steps[1]} in {self._folder}")

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._on:
      self._stop()
