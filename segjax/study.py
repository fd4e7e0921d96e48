"""Studies: variants of an experiment trained with several seeds, so that they can be compared."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from segjax import config as config_lib
from segjax import own_code
from segjax.errors import Stopped, UserError, check_fields, explain
from segjax.training import input_pipeline, loop
from segjax.training import workdir as workdir_lib
from segjax.training.evaluation import read_sums
from segjax.training.writers import read_metrics

__all__ = ["Result", "Study", "changes", "identity", "make_config", "override", "read", "run"]

# Fields that change nothing in the numbers of a run, and so not its identity. Data may have moved;
# their fingerprint shows whether they are the same.
NEUTRAL = (
  "name", "keep_", "checkpoint_", "log_steps", "pictures", "writers", "data.threads",
  "data.workers", "data.cache_mb", "data.feed", "data.device_mb", "data.source.folder",
  "data.source.data_dir", "mesh.",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Study:
  """The variants to train and to compare; files of `configs/studies/` make one.

  Attributes:
    title: title of the report.
    question: the question of the study, a sentence or two.
    variants: name of a variant -> config file with its argument.
    seeds: each variant is trained with each.
    metric: scalar of an evaluation that the study is about, e.g. "val/mean_iou".
    compare: pairs of variants, the second is compared with the first; empty: all with the first.
    overrides: "field" -> value, of every run.
    changes: variant -> "field" -> value, of one variant; `overrides` win.
    derived: variant -> function of its overridden config -> "field" -> value; for
      fields that depend on others, such as the length of the training. `overrides` win but for the
      length itself.
    notes: variant -> a remark for the reader of the report.
  """

  title: str
  question: str
  variants: dict[str, str]
  seeds: tuple[int, ...] = (0, 1, 2)
  metric: str = "val/mean_iou"
  compare: tuple[tuple[str, str], ...] = ()
  overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
  changes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  derived: dict[str, Callable] = dataclasses.field(default_factory=dict)
  notes: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Result:
  """One run of a study.

  Attributes:
    variant: name of the variant.
    seed: random seed of the run.
    config: ConfigDict, or None where it could not be made.
    workdir: path, or None likewise.
    error: why it failed, or empty.
  """

  variant: str
  seed: int
  config: Any
  workdir: Path
  error: str = ""

  def rows(self) -> list[dict]:
    """Rows of `metrics.jsonl`."""
    return read_metrics(self.workdir / "metrics.jsonl")

  def final(self) -> dict[str, float]:
    """Scalars of the last evaluation, nan where one was not defined."""
    row = [r for r in self.rows() if "val/loss" in r][-1]
    return {k: np.nan if v is None else v for k, v in row.items()}

  def best(self) -> float:
    """The best value of `config.best_metric` over all evaluations."""
    name, sign = self.config.best_metric, 1 if self.config.best_mode == "max" else -1
    values = [r[name] for r in self.rows() if r.get(name) is not None]
    return sign * max((sign * v for v in values), default=np.nan)

  def minutes(self) -> float:
    """Minutes of training, evaluations included."""
    return max((r.get("time/minutes", 0.0) for r in self.rows()), default=0.0)

  def sums(self) -> dict[str, np.ndarray]:
    """Statistics of the last evaluation, see the task; a UserError names a damaged file."""
    return {k: v for k, v in read_sums(self.workdir).items() if k != "step"}

  def complete(self) -> bool:
    """Whether all that a report needs can be read: rows of the run and of an evaluation, sums."""
    rows = self.rows()
    try:
      self.sums()
    except UserError:
      return False
    return all(any(key in row for row in rows) for key in ("info/steps_per_epoch", "val/loss"))


def read(spec: str) -> Study:
  """The Study of a file with its argument, `configs/studies/aspp.py:smoke`.

  Args:
    spec: path, or path:argument.

  Raises:
    UserError: no such file, or an argument that its `get_study` refuses.
  """
  return config_lib.call_file(spec, "get_study", "study")


def override(config: ConfigDict, field: str, text: Any) -> None:
  """Sets a field from a string, as the command line gives it, or from a value of its type.

  Args:
    config: ConfigDict, changed in place.
    field: its name, such as "data.batch_size".
    text: string or value.

  Raises:
    UserError: no such field, or a value of another type.
  """
  flat = config_lib.flatten(config)
  check_fields([field], list(flat), "the config")
  old, value = flat[field], config_lib.expand_home(text)
  if field == "optimizer.name" and isinstance(text, str):
    config_lib.change_optimizer(config, text)
  if isinstance(text, str) and not isinstance(old, str):
    try:
      value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
      value = text
  if isinstance(old, tuple) and isinstance(value, str):
    value = (value,)  # as the other launchers read it
  if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
    value = float(value)
  try:
    config.update_from_flattened_dict({field: value})
  except TypeError:
    kind = type(old).__name__
    raise UserError(f"config.{field} is {text!r}, expected a {kind} such as {old!r}") from None
  own_code.allow(config)


def changes(study: Study, variant: str) -> dict[str, Any]:
  """Changes of a variant to its config file, overrides left out.

  Args:
    study: Study.
    variant: name of a variant.

  Returns:
    {"field": value}.
  """
  fixed = {k: v for k, v in study.changes.get(variant, {}).items() if k not in study.overrides}
  if variant not in study.derived:
    return fixed
  config = config_lib.read(study.variants[variant])
  for field, value in (fixed | study.overrides).items():
    override(config, field, value)
  derived = study.derived[variant](config)
  won = {k for k in study.overrides if not k.startswith("total_")}
  return fixed | {k: v for k, v in derived.items() if k not in won}


def make_config(study: Study, variant: str, seed: int) -> ConfigDict:
  """The config of a run: file, overrides, seed; checkpoints of an early and a middle stage stay.

  Args:
    study: Study.
    variant: name of a variant.
    seed: random seed of the run.

  Returns:
    ConfigDict.

  Raises:
    UserError: the file cannot be read, or has no such field.
  """
  config = config_lib.read(study.variants[variant])
  for field, value in (study.overrides | changes(study, variant)).items():
    override(config, field, value)
  config.seed = seed
  kind = "epochs" if config.total_epochs else "steps"
  if not (config.keep_steps or config.keep_epochs):
    total = config[f"total_{kind}"]
    early = min(config[f"eval_{kind}"] or total, total / 4)
    kept = [type(total)(x) for x in (early, total / 2)]
    config[f"keep_{kind}"] = tuple(x for x in kept if x > 0)  # of a training of one step none
  return config


def identity(config: ConfigDict) -> str:
  """Hash of the fields that affect results; equal for runs of the same numbers on the same data.

  Fields at their defaults are left out, those of the net, the task and the data source too, so a
  field that comes with a new version changes nothing.

  Args:
    config: ConfigDict of a run.

  Returns:
    8 hexadecimal digits.
  """
  flat = config_lib.flatten(config)
  default = config_lib.flatten(config_lib.default()) | workdir_lib.defaults(config)
  changed = {k: v for k, v in flat.items() if not k.startswith(NEUTRAL) and default.get(k, k) != v}
  text = json.dumps(config_lib.with_old_names(changed), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def run(study: Study, pool: str | os.PathLike) -> list[Result]:
  """Trains the missing runs, in the order of seeds; one that fails does not stop the rest.

  Runs live in `<pool>/<config name>-s<seed>-<identity>` and are shared by all studies with the
  same pool: a finished one is not trained again, an interrupted one resumes where it stopped, one
  of other data or of other defaults is an error of that run.

  Args:
    study: Study.
    pool: folder of runs.

  Returns:
    list of Result, by variant, then seed.

  Raises:
    Stopped: after SIGTERM or Ctrl-C; the same study resumes later.
    UserError: no variant's config can be read, or two variants are the same.
  """
  configs, results = {}, {}
  for seed in study.seeds:
    for variant in study.variants:
      try:
        configs[variant, seed] = make_config(study, variant, seed)
      except UserError as error:
        results[variant, seed] = Result(variant, seed, None, None, str(error))
        print(f"{variant}, seed {seed}: {error}", flush=True)
  if not configs:
    raise UserError(next(iter(results.values())).error)
  _check_different(study, configs)
  for number, ((variant, seed), config) in enumerate(configs.items(), 1):
    workdir = Path(pool) / f"{config.name}-s{seed}-{identity(config)}"
    print(f"[{number} of {len(configs)}] {variant}, seed {seed}", flush=True)
    results[variant, seed] = Result(variant, seed, config, workdir, _train(config, workdir))
    jax.clear_caches()  # compiled steps of runs that are over
  return [results[v, s] for v in study.variants for s in study.seeds]


def _check_different(study, configs):
  first, of_a_seed = {}, {variant: config for (variant, _), config in configs.items()}
  for variant, config in of_a_seed.items():
    same = first.setdefault(identity(config), variant)
    if same != variant:
      raise UserError(
        f"the variants {same!r} and {variant!r} of the study have the same config; is a field that "
        "distinguishes them overridden?"
      )


def _train(config, workdir):
  """Trains a run unless it is finished; returns an error's text or nothing."""
  finished = workdir / "finished"
  try:
    if finished.exists():
      sources = (
        input_pipeline.make_source(config, "train", training=True),
        input_pipeline.make_source(config, "val"),
      )
      data = workdir_lib.fingerprint(*sources, config.init_from)
      workdir_lib.check(config, workdir, data, NEUTRAL)
      if Result("", config.seed, config, workdir).complete():
        print(f"  finished before: {workdir}")
        return ""
      print(f"  finished before, but some results are lost: {workdir}", flush=True)
    loop.train(config, workdir)  # of a finished run this restores lost results
    finished.touch()
  except Stopped:
    raise
  except Exception as error:
    text = explain(error)
    if text is None:
      traceback.print_exc()  # ours, not the user's
      text = f"{type(error).__name__}: {error}"
    text = text.strip().splitlines()[0]
    print(f"  failed: {text}", flush=True)
    return text
  return ""
