"""The display of a training: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

import jax


class Progress:
  """Progress in steps, with loss, images/s and time left.

  Attributes:
    total: steps in all.
    steps_per_epoch: steps per epoch, to show epochs.
    images_per_step: images per step, for the rate.
    images_per_second: over the last window.
    loss: the mean over the last window, nan before the first.
  """

  def __init__(self, total, first, steps_per_epoch, images_per_step, minutes_before=0.0):
    """Starts the clock.

    Args:
      total: steps in all.
      first: steps that are done.
      steps_per_epoch: steps per epoch, to show epochs.
      images_per_step: images per step, for the rate.
      minutes_before: minutes of the steps so far.
    """
    self.total, self.steps_per_epoch = total, steps_per_epoch
    self.images_per_step = images_per_step
    self.images_per_second, self.loss = 0.0, float("nan")
    self._last_step, self._last_time, self._seconds = first, time.perf_counter(), 0.0
    self._first, self._bar = first, None
    self._started, self._minutes_before = self._last_time, minutes_before
    if sys.stderr.isatty() and jax.process_index() == 0:
      from tqdm import tqdm

      self._bar = tqdm(total=total, initial=first, unit="step", dynamic_ncols=True)

  def minutes(self):
    """Minutes of training, with those before the run was resumed."""
    return self._minutes_before + (time.perf_counter() - self._started) / 60

  def skip_time(self):
    """Leaves the time since the last call out of the rate: evaluation is not training."""
    self._last_time = time.perf_counter()

  def update(self, step, loss):
    """Shows the mean loss of the steps since the last call."""
    now, done, self.loss = time.perf_counter(), step - self._last_step, loss
    self._seconds += now - self._last_time
    self.images_per_second = done * self.images_per_step / max(now - self._last_time, 1e-9)
    self._last_step, self._last_time = step, now
    left = (self.total - step) * self._seconds / max(step - self._first, 1)
    if self._bar is not None:
      self._bar.update(step - self._bar.n)
      self._bar.set_postfix_str(f"loss {loss:.4f}, {self.images_per_second:.1f} images/s")
    else:
      epoch = step / self.steps_per_epoch
      print(
        f"step {step:>6}/{self.total}  epoch {epoch:6.2f}  loss {loss:.4f}  "
        f"{self.images_per_second:6.1f} images/s  {_clock(left)} left",
        flush=True,
      )

  def print(self, text):
    """Prints a line without breaking the bar."""
    if self._bar is not None:
      self._bar.write(text)
    else:
      print(text, flush=True)

  def close(self):
    """Ends the bar."""
    if self._bar is not None:
      self._bar.close()


def peak_memory():
  """(peak, limit) of the first device's memory, GB, or None where it does not report them."""
  found = jax.local_devices()[0].memory_stats() or {}
  names = "peak_bytes_in_use", "bytes_limit"
  return tuple(found[n] / 1e9 for n in names) if all(n in found for n in names) else None


def _clock(seconds):
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
