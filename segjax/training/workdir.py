"""The folder of a run: what it was trained with and on, which a run that goes on must share."""

from __future__ import annotations

import hashlib
import json
import shutil

from segjax import config as config_lib
from segjax.errors import UserError
from segjax.training import experiment as experiment_lib
from segjax.training import initial


def fingerprint(train_source, val_source, init_from=""):
  """What a run starts from, ready for JSON.

  The class names, count and hash of the examples' names of both splits, and the hash of the initial
  weights, None where there are none, or none any more.
  """

  def names(source):
    text = "\n".join(map(str, source.source.names))
    return [len(source), hashlib.sha256(text.encode()).hexdigest()[:16]]

  labels = list(train_source.source.labels.names)
  return dict(
    classes=labels,
    train=names(train_source),
    val=names(val_source),
    start=initial.fingerprint(init_from),
  )


def check_classes(folder, run_labels, data_labels):
  """Raises a UserError where the classes of a run and of data differ in name, number or order.

  Args:
    folder: of the run, for the message.
    run_labels: LabelTable that the run was trained with.
    data_labels: LabelTable of the data that it is used on.
  """
  run, data = list(run_labels.names), list(data_labels.names)
  if run == data:
    return
  if sorted(run) == sorted(data):
    why = "the same classes in another order, so that label values mean other classes"
  else:
    why = "other classes"
  raise UserError(
    f"{folder}: the data has {why}. Classes of the run, in order: {', '.join(run) or 'none'}; "
    f"classes of the data: {', '.join(data) or 'none'}. Use data with the run's classes (its "
    "classes.txt or data.source.classes), or a run that was trained on these"
  )


def check(config, folder, data, may_change=config_lib.MAY_CHANGE):
  """Raises a UserError where the run in a folder has another config, other data or another start.

  Args:
    config: ConfigDict.
    folder: of a run.
    data: from `fingerprint`.
    may_change: starts of the names of fields that may differ.

  Returns:
    dict, the run's `fingerprint`.
  """
  lines = config_lib.differences(config_lib.load(folder / "config.json"), config, may_change)
  if lines:
    raise UserError(
      f"{folder} holds a run with another config; it differs (old -> new) in "
      f"{'; '.join(lines)}. Use the old values, or another folder (--workdir, a study's --runs)"
    )
  file = folder / "data.json"
  old = json.loads(file.read_text()) if file.exists() else data
  if None not in (old.get("start"), data["start"]) and old["start"] != data["start"]:
    raise UserError(
      f"{folder} holds a run that started from other weights: {config.init_from!r} has changed "
      "since. Bring the old weights back, or use another folder (--workdir, a study's --runs)"
    )
  for what in ("classes", "train", "val"):
    if old[what] != data[what]:
      raise UserError(
        f"{folder} holds a run on other data: {what} was {old[what]}, now {data[what]} (names of "
        "classes; number of examples and hash of their names). Use the old data, or another folder "
        "(--workdir, a study's --runs)"
      )
  return old


def prepare(config, folder, labels, data, needed_mb):
  """Makes the folder, or checks that the run in it is this one; writes config, labels and data.

  Args:
    config: ConfigDict.
    folder: path.
    labels: LabelTable.
    data: from `fingerprint`.
    needed_mb: of its checkpoints, 10^6 bytes.

  Raises:
    UserError: another run is in it, it cannot be written to, or is too full.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    # A run that ended before its first checkpoint, by a mistyped path perhaps, starts anew.
    begun = any(p.name.isdigit() for p in (folder / "checkpoints").glob("*"))
    if begun and (folder / "config.json").exists():
      old = check(config, folder, data)
      data = data | dict(start=data["start"] or old.get("start"))
    config_lib.save(config, folder / "config.json")
    experiment_lib.save_labels(labels, folder / "labels.json")
    config_lib.replace_text(folder / "data.json", json.dumps(data) + "\n")
    free = shutil.disk_usage(folder).free / 1e6
  except OSError as error:
    raise UserError(
      f"cannot write to {folder.absolute()}: {error}; check the permissions and the free space, "
      "or choose another --workdir"
    ) from error
  if free < needed_mb:
    raise UserError(
      f"{folder.absolute()}: {free:.0f} MB are free, checkpoints of this model need about "
      f"{needed_mb:.0f} MB; free some space or choose another --workdir"
    )
