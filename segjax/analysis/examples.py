"""Labelled examples, ranked by how badly they fit a trained net: wrong labels come first."""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from segjax import textfiles
from segjax.data.labels import IGNORE
from segjax.data.threads import map_threads
from segjax.errors import UserError
from segjax.legends import with_legend
from segjax.pictures import panel
from segjax.training import restore, steps
from segjax.training import workdir as workdir_lib
from segjax.training.evaluation import classes_seen, example_panels

TASKS = ("segmentation", "multi_label", "classification")
SCORES = ("loss", "grad_norm", "disagreement")


@dataclasses.dataclass(frozen=True)
class Scored:
  """An example and its scores.

  Attributes:
    split: "train" or "val".
    index: its place in the split.
    name: its name there.
    loss: loss of the example alone, as in an evaluation.
    grad_norm: norm of the gradient of this loss over all parameters.
    disagreement: share of its scored pixels, in all masks of classes that overlap, or of its one
      class, on which two runs differ: the mean over the pairs of runs; nan of one run.
  """

  split: str
  index: int
  name: str
  loss: float
  grad_norm: float
  disagreement: float


def score_step(experiment):
  """Builds step(state, u8[B,H,W,3], label) -> (loss f32[B], grad_norm f32[B], classes).

  The gradient is that of each example by itself (Paul, Ganguli, Dziugaite, "Deep Learning on a Data
  Diet", NeurIPS 2021), of the net as it is evaluated.

  Args:
    experiment: Experiment of one of `TASKS`.

  Returns:
    A jitted function; its classes are i32[B,H,W], i32[B] or, where they overlap, bool[B,H,W,C].
  """
  task, model, data = experiment.task, experiment.model, experiment.config.data

  def loss_of(params, state, image, label):
    image, label = steps.read_batch(dict(image=image[None], label=label[None]))
    inputs, label = task.prepare(jax.random.key(0), image, label, train=False)
    variables = state.eval_variables() | dict(params=params)
    net = steps.Net(model, variables, mean=data.mean, std=data.std, train=False, step=state.step)
    outputs = task.outputs(net, inputs)
    sums = task.statistics(outputs, label, jnp.ones(1, bool), evaluating=False)
    return task.loss(sums), task.predict(outputs)[0]

  def one(state, image, label):
    params = state.eval_variables()["params"]
    (loss, classes), grads = jax.value_and_grad(loss_of, has_aux=True)(params, state, image, label)
    return loss, steps.global_norm(grads), classes

  return jax.jit(jax.vmap(one, (None, 0, 0)))


def disagreement(predictions, label):
  """Mean over the pairs of runs of the share of scored pixels on which they differ.

  Args:
    predictions: list of i32[H,W], i32[] or bool[H,W,C], the classes by each run.
    label: [H,W] or []; pixels of 255 do not count.

  Returns:
    float in [0,1]; nan of one run, or where nothing is scored.

  >>> disagreement([np.array([0, 1]), np.array([0, 0]), np.array([1, 1])], np.array([0, 1]))
  0.6666666666666666
  """
  scored = np.asarray(label) != IGNORE
  pairs = list(itertools.combinations(map(np.asarray, predictions), 2))
  if not pairs or not scored.any():
    return math.nan
  return float(np.mean([(a != b)[scored].mean() for a, b in pairs]))


def score(runs, split, source):
  """Scores of all examples of a split, in its order.

  Args:
    runs: list of (Experiment, TrainState); loss and gradient are those of the first.
    split: name of the split.
    source: source of `input_pipeline.make_source`, for evaluation.

  Returns:
    list of Scored.
  """
  data = runs[0][0].config.data
  made = [(score_step(experiment), state) for experiment, state in runs]
  found = []
  for indices, images, labels in _batches(source, data.batch_size, max(data.threads, 1)):
    results = [jax.device_get(step(state, images, labels)) for step, state in made]
    loss, norm, _ = results[0]
    for k, i in enumerate(indices):
      differ = disagreement([classes[k] for *_, classes in results], labels[k])
      name = str(source.source.names[i])
      found.append(Scored(split, i, name, float(loss[k]), float(norm[k]), differ))
  return found


def _batches(source, batch_size, threads):
  """Yields (indices, images, labels) of examples in their order; a batch has images of one size.

  Each is filled up with copies of its last example.
  """
  for start in range(0, len(source), batch_size):
    indices = range(start, min(start + batch_size, len(source)))
    examples = map_threads(lambda k, indices=indices: source[indices[k]], len(indices), threads)
    shapes = [example["image"].shape for example in examples]
    for _, group in itertools.groupby(range(len(indices)), key=lambda k: shapes[k]):
      chosen = list(group)
      filled = chosen + chosen[-1:] * (batch_size - len(chosen))
      images, labels = (np.stack([examples[k][n] for k in filled]) for n in ("image", "label"))
      yield [indices[k] for k in chosen], images, labels


def rank(scored, by):
  """Examples by a score, the highest first; those without a finite one come first of all.

  Args:
    scored: list of Scored.
    by: one of `SCORES`.
  """
  value = lambda s: getattr(s, by)  # noqa: E731
  return sorted(scored, key=lambda s: (math.isfinite(value(s)), -value(s), s.split, s.index))


def rows(ranked):
  """Ranked examples as rows of a table: rank, split, name, loss, grad_norm, disagreement."""
  yield "rank", "split", "name", *SCORES
  for place, s in enumerate(ranked, 1):
    values = ("" if math.isnan(v) else f"{v:.6g}" for v in (getattr(s, k) for k in SCORES))
    yield place, s.split, textfiles.cell(s.name), *values


def caption(place, scored):
  """Place, name and scores of an example in words."""
  text = f"{place}. {scored.split}/{scored.name}: loss {scored.loss:.3g}"
  text += f", gradient norm {scored.grad_norm:.3g}"
  return text + ("" if math.isnan(scored.disagreement) else f", differ {scored.disagreement:.2f}")


def sheet(ranked, run, sources, wanted):
  """Draws the first examples of a ranking: image, prediction, truth and errors.

  Args:
    ranked: list of Scored.
    run: (Experiment, TrainState).
    sources: {split: source}.
    wanted: number of examples.

  Returns:
    u8[height,width,3].
  """
  (experiment, state), rows, seen = run, [], set()
  predict = experiment.predict_step()
  for place, s in enumerate(ranked[:wanted], 1):
    example = sources[s.split][s.index]
    outputs = predict(state, example["image"][None])
    (_, image), *rest = example_panels(experiment.task, outputs, example)
    rows.append([(caption(place, s), image), *rest])
    seen |= classes_seen(experiment.task, outputs, example["label"])
  return with_legend(panel(rows), experiment.labels, seen)


def read_runs(workdirs, checkpoint):
  """The runs of some folders, of one task and the same classes.

  Args:
    workdirs: paths.
    checkpoint: "latest", "best" or a step.

  Returns:
    list of (Experiment, TrainState).

  Raises:
    UserError: a task whose examples have no labels, or runs of other classes.
  """
  runs = [restore.run(folder, checkpoint) for folder in workdirs]
  first = runs[0][0]
  for folder, (experiment, _) in zip(workdirs, runs, strict=True):
    name = experiment.config.task.name
    if name not in TASKS or name != first.config.task.name:
      raise UserError(
        f"{folder}: its task is {name!r}; expected runs of one task, {' or '.join(TASKS)}, whose "
        "examples have classes as labels"
      )
    workdir_lib.check_classes(folder, experiment.labels, first.labels)
  return runs
