"""The folder of a run: the config and the data that a resumed run must share."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import shutil
from pathlib import Path

from segjax import claims, hosts, models, own_code, textfiles
from segjax import config as config_lib
from segjax.data import lists, paths
from segjax.errors import UserError, writing
from segjax.tasks import TASKS
from segjax.training import checkpoint_files, class_balance, initial, optim, temperature
from segjax.training import experiment as experiment_lib

DATA_KEYS = ("classes", "train", "val", "contents", "start")  # of data.json
MANY = 10**7  # names; beyond, those that follow a rule are not made one by one
PART = 10**4  # names that are hashed at a time
ELSEWHERE = "or use another folder (--workdir, a study's --runs)"
SHOWN = 12  # fields that differ, in a message
# What other programs write about the net of a run, which is another one where it starts anew.
OF_A_NET = (temperature.FILE, "finished", "evaluation_*_*")

# Fields that a resumed run may change: they do not change the steps taken so far (`total_` does
# with some schedules, see `differences`).
MAY_CHANGE = (
  "name", "total_", "eval_", "checkpoint_", "keep_", "log_steps", "steps_per_dispatch", "remat",
  "data.threads", "data.cache_mb", "data.feed", "data.device_mb", "data.max_pixels",
  "data.source.folder", "data.source.data_dir", "mesh.", "pictures", "writers", "early_stopping.",
  "nan_debug",
)  # fmt: skip


# ---------------------------------------------------------------------------- parts to compare


def fingerprint(train_source, val_source, init_from=""):
  """The start of a run, ready for JSON.

  The class names, number and hash of the examples' names of both splits, the hash of their
  contents, None where a source has none, and the hash of the initial weights, None where there are
  none, or none any more.
  """
  return dict(
    classes=list(train_source.source.labels.names),
    train=names_of(train_source),
    val=names_of(val_source),
    contents=dict(train=contents_of(train_source), val=contents_of(val_source)),
    start=initial.fingerprint(init_from),
  )


def names_of(source):
  """[number, hash of the names] of the examples of a source of `input_pipeline`."""
  names, digest = source.source.names, hashlib.sha256()
  if len(names) > MANY and hasattr(names, "digest"):
    return [len(source), hashlib.sha256(names.digest().encode()).hexdigest()[:16]]
  for start in range(0, len(names), PART):
    some = (names[i] for i in range(start, min(start + PART, len(names))))
    text = ("\n" if start else "") + "\n".join(map(str, some))
    digest.update(textfiles.to_bytes(text))
  return [len(source), digest.hexdigest()[:16]]


def contents_of(source):
  """The digest of the files of a source of `input_pipeline`; None where it reads none."""
  digest = getattr(source.source, "digest", None)
  return digest and digest()


def check_classes(folder, run_labels, data_labels):
  """Raises a UserError where the classes of a run and of data differ.

  They differ in name, number or order, or those of one alone overlap.

  Args:
    folder: folder of the run, for the message.
    run_labels: LabelTable that the run was trained with.
    data_labels: LabelTable of the data that it is used on.
  """
  if run_labels.overlapping != data_labels.overlapping:
    of = "the data" if data_labels.overlapping else "the run"
    raise UserError(
      f"{folder}: the classes of {of} overlap, a mask for each, and those of the other do not; use "
      "data with labels of the run's kind"
    )
  run, data = list(run_labels.names), list(data_labels.names)
  if run == data:
    return
  if sorted(run) == sorted(data):
    why = "the same classes in another order, so that label values mean other classes"
  else:
    why = "other classes"
    near = lists.alike([n for n in data if n not in run], [n for n in run if n not in data])
    why += "".join(f" ({text})" for text in near)
  raise UserError(
    f"{folder}: the data has {why}. Classes of the run, in order: {', '.join(run) or 'none'}; "
    f"classes of the data: {', '.join(data) or 'none'}. Use data with the run's classes (its "
    "classes.txt or data.source.classes), or a run that was trained on these"
  )


def differences(old, new, may_change=MAY_CHANGE):
  """Lines "field: old -> new" for the fields of two configs that a resumed run must not change.

  A field that one of them lacks counts as its default: it is newer than the other.
  """
  old, new = (defaults(c) | _of_task(c) | config_lib.flatten(c) for c in (old, new))
  lines, why = [], _depends_on_total(old)
  for key in sorted(old.keys() | new.keys()):
    a, b = old.get(key, "(absent)"), new.get(key, "(absent)")
    length = key.startswith("total_") and why
    if a != b and (length or not key.startswith(may_change)):
      lines.append(f"{key}: {a!r} -> {b!r}" + (f" ({why} depends on it)" if length else ""))
  return lines


def _depends_on_total(flat):
  """The field of a flat config that follows the length of the training, or nothing."""
  if flat.get("schedule.name") in ("cosine", "polynomial", "one_cycle"):
    return f"the schedule {flat['schedule.name']!r}"
  return "ema_decay_end" if flat.get("ema_decay_end") else ""


def defaults(config):
  """Defaults of the fields that depend on the name of the source, the task or the net, flat."""
  source = dict(config_lib.DATA_SOURCES.get(config.data.source.name, {}))
  task, loss = _task_fields(config)
  source |= own_code.known_defaults(config.data.source.name)
  net = _fields(models.MODELS.get(config.model.name)) | own_code.known_defaults(config.model.name)
  net |= dict(dtype="float32", param_dtype="float32")
  parts = dict(data=dict(source=source), task=task, loss=loss, model=net)
  if own_code.is_own(config.optimizer.name):
    own = own_code.known_defaults(config.optimizer.name)
    parts["optimizer"] = dict(accumulate_steps=1) | own
  elif config.optimizer.name not in config_lib.THREE:
    parts["optimizer"] = optim.settings(config.optimizer.name)
  return config_lib.flatten(parts)


def _of_task(config):
  """Values that absent fields of the task and its loss have, which configs set otherwise, flat."""
  made = _fields(TASKS.get(config.task.name))
  parts = zip(("task", "loss"), _task_fields(config), strict=True)
  return {f"{part}.{k}": made[k] for part, fields in parts for k in fields if k in made}


def _task_fields(config):
  known = config.task.name in config_lib.TASK_FIELDS
  return config_lib.task_fields(config.task.name) if known else ({}, {})


def _fields(cls):
  """Defaults of a dataclass; of a Flax module those of the fields that a config sets."""
  fields = dataclasses.fields(cls) if cls else ()
  return {
    f.name: f.default
    for f in fields
    if f.name not in ("parent", "name", "num_classes") and f.default is not dataclasses.MISSING
  }


def check(config, folder, data, may_change=MAY_CHANGE):
  """Raises a UserError where the run in a folder has another config, other data or another start.

  Args:
    config: ConfigDict.
    folder: folder of a run.
    data: result of `fingerprint`.
    may_change: starts of the names of fields that may differ.

  Returns:
    dict, the run's `fingerprint`; one of an older version has no "contents".
  """
  lines = differences(config_lib.load(folder / "config.json"), config, may_change)
  if lines:
    longer = any(line.startswith("total_") for line in lines)
    more = f"; to train on from its weights, give the new run --config.init_from={folder}"
    # Those of another net or data set bring many others along.
    shown = sorted(lines, key=lambda line: not line.partition(":")[0].endswith(".name"))
    if len(lines) > SHOWN:
      shown[SHOWN:] = [f"and {len(lines) - SHOWN} more fields"]
    raise UserError(
      f"{folder} holds a run with another config; it differs (old -> new) in "
      f"{'; '.join(shown)}. Use the old values, {ELSEWHERE}{more if longer else ''}"
    )
  file = folder / "data.json"
  old = textfiles.read_state(file, DATA_KEYS) if file.exists() else data
  if None not in (old.get("start"), data["start"]) and old["start"] != data["start"]:
    raise UserError(
      f"{folder} holds a run that started from other weights: {config.init_from!r} has changed "
      f"since. Bring the old weights back, {ELSEWHERE}"
    )
  for what in ("classes", "train", "val"):
    if what not in old:
      raise UserError(f"{file}: no {what!r} in it; {textfiles.MEND}")
    if old[what] != data[what]:
      raise UserError(
        f"{folder} holds a run on other data: {what} was {old[what]}, now {data[what]} (names of "
        f"classes; number of examples and hash of their names). Use the old data, {ELSEWHERE}"
      )
  before = old.get("contents") or {}
  for split in ("train", "val"):
    was, now = (c.get(split) for c in (before, data["contents"]))
    if None not in (was, now) and was != now:
      raise UserError(
        f"{folder} holds a run on other data: images or labels of the {split} split have changed "
        f"since (hash of their contents: {was}, now {now}). Bring the old files back, {ELSEWHERE}"
      )
  return old


def check_processes(config, data):
  """Raises a UserError in all processes where they have other configs or other data.

  Args:
    config: ConfigDict.
    data: result of `fingerprint`.
  """
  flat = config_lib.flatten(config)
  places = "data.source.folder", "data.source.data_dir"  # may differ between machines
  hosts.check_same({k: v for k, v in flat.items() if k not in places}, "config")
  hosts.check_same(data, "data")


# ---------------------------------------------------------------------------- making it


def check_path(folder):
  """Raises a UserError for a path at which checkpoints or TensorBoard would fail."""
  path = str(folder.absolute())
  if glob.escape(path) != path:
    raise UserError(
      f"{folder}: [ ] * ? in the path of a run make its checkpoints unreadable; "
      "use other characters"
    )
  if str(folder).startswith("~"):
    raise UserError(f"{folder}: no home folder is known, so '~' means nothing; give the whole path")
  try:
    path.encode()
  except UnicodeEncodeError:
    raise UserError(f"{path!r}: the path of a run must be valid UTF-8; rename the folder") from None


def check_apart(folder, source):
  """Raises a UserError for the folder of a run in which its data lie.

  The pictures of its evaluations, in `images/`, would be images of the set at the next start.

  Args:
    folder: path.
    source: a source of `input_pipeline`.
  """
  while not hasattr(source, "pairs") and hasattr(source, "source"):
    source = source.source
  pairs = getattr(source, "pairs", ())
  theirs = {Path(source.root), *paths.folders_of(f for f, _ in pairs if f)} if pairs else set()
  taken = {f.resolve() for f in theirs} & {f.resolve() for f in (folder, folder / "images")}
  if taken:
    raise UserError(
      f"{folder} is a folder of the data, {min(taken)}; a run writes pictures into images/, which "
      f"would become images of the set: {ELSEWHERE.removeprefix('or ')}"
    )


@contextlib.contextmanager
def locked(folder):
  """Context in which no other process trains in a folder, which is made if need be.

  Yields:
    claims.Claim; its `check` goes before what would damage another process's run.

  Raises:
    claims.InUse: another process holds it.
    UserError: the folder cannot be written to.
  """
  check_path(folder)
  with _writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
  try:
    held = claims.claim(folder)
  except claims.InUse as error:
    raise claims.InUse(f"{error}; wait for its end, stop it, {ELSEWHERE}") from None
  try:
    yield held
  finally:
    held.release()


def begun(folder):
  """Whether a folder holds a run with a checkpoint, which is then resumed."""
  saved = checkpoint_files.steps_in(folder / "checkpoints")
  return bool(saved) and (folder / "config.json").exists()


def kept_class_weights(rule, folder, labels):
  """The class weights of the run that a folder holds, tuple of floats; None where there are none.

  A run that ended before its first checkpoint starts anew, and so do its weights.
  """
  return class_balance.read(folder, rule, labels) if begun(folder) else None


def prepare(config, folder, labels, data, needed_mb, class_weights=()):
  """Checks that the run in a folder, if any, is this one; writes config, labels and data.

  Args:
    config: ConfigDict.
    folder: path.
    labels: LabelTable.
    data: result of `fingerprint`.
    needed_mb: size of its checkpoints, 10^6 bytes.
    class_weights: class weights of the task, kept where the config names a rule for them.

  Raises:
    UserError: another run is in it, it cannot be written to, or is too full.
  """
  with _writing(folder):
    folder.mkdir(parents=True, exist_ok=True)  # the lock has made it, in the first process
    # A run that ended before its first checkpoint, by a mistyped path perhaps, starts anew.
    if begun(folder):
      old = check(config, folder, data)
      before = old.get("contents") or {}
      contents = {k: v or before.get(k) for k, v in data["contents"].items()}
      data = data | dict(start=data["start"] or old.get("start"), contents=contents)
    elif (folder / "config.json").exists():  # of a training that starts anew
      for file in (f for kind in OF_A_NET for f in folder.glob(kind) if f.is_file()):
        file.unlink()
    config_lib.save(config, folder / "config.json")
    experiment_lib.save_labels(labels, folder / "labels.json")
    textfiles.write_state(folder / "data.json", data)
    class_balance.write(folder, class_balance.rule(config.loss), labels, class_weights)
    free = shutil.disk_usage(folder).free / 1e6
  if free < needed_mb:
    raise UserError(
      f"{folder.absolute()}: {free:.0f} MB are free, checkpoints of this model need about "
      f"{needed_mb:.0f} MB; free some space or choose another --workdir"
    )


def _writing(folder):
  return writing(
    f"to {folder.absolute()}",
    "check the permissions and the free space, or choose another --workdir",
  )
