"""The report of a study: tables and figures as Markdown, self-contained HTML and CSV."""

from __future__ import annotations

import csv
import io
import os
import re

import jax
import numpy as np

from segjax import study as study_lib
from segjax import textfiles
from segjax.analysis import charts, cost, features, intact, predictions, regions
from segjax.analysis import probes as probes_lib
from segjax.analysis.document import Document
from segjax.analysis.figures import write_picture
from segjax.analysis.intervals import mean_and_deviation, paired_difference
from segjax.tasks import TASKS
from segjax.training import restore
from segjax.weights import PRETRAINED

FIGURES = re.compile(
  r"(curves|trade_\w+|iou_by_class|confusion_\d+|regions|stages_\d+|features_\d+|examples)\.(png|pdf)"
)
OF_THE_DATA = ("val/constant_accuracy", "val/true_colorfulness")  # the same for all variants
TEXTS = {  # of scalars, with units
  "val/pixel_accuracy": "pixel accuracy",
  "val/mean_iou": "mean IoU",
  "val/mean_class_recall": "mean class recall",
  "val/max_f1": "MaxF",
  "val/psnr": "PSNR (dB)",
  "val/ssim": "SSIM",
  "val/color_error": "colour error (units of a, b)",
  "val/edge_error": "edge error (units of L, a, b)",
}
CLASS_METRICS = {"f1": "F1", "iou": "IoU"}


def write(study, results, output):
  """Writes `report.md`, `report.html`, `results.csv` and `figures/` of a study.

  Args:
    study: study.Study.
    results: from `study.run`, without damaged runs, see `intact.checked`.
    output: folder, made if need be.

  Returns:
    Path of the HTML file.
  """
  figures = output / "figures"
  figures.mkdir(parents=True, exist_ok=True)
  for file in figures.iterdir():  # of a report before, of more variants perhaps
    if FIGURES.fullmatch(file.name):
      file.unlink()
  done = {v: [r for r in results if r.label == v and not r.error] for v in study.variants}
  done = {v: runs for v, runs in done.items() if runs}
  document = Document(study.title)
  document.text(study.question)
  costs = {v: _costs(runs[0]) for v, runs in done.items()}
  probes = {
    v: [probes_lib.probe(r.workdir, _moved(r)) for r in runs]
    for v, runs in done.items()
    if TASKS[_task(runs)].self_supervised
  }
  knn = _knn(done, probes)
  textfiles.replace_text(output / "results.csv", _csv(study, results, costs, knn))
  _setup(document, study, results, done, costs)
  if done:
    judged = _judged(done, knn)
    _numbers(document, study, done, costs, judged, knn)
    if probes:
      _features(document, done, probes, figures)
    _curves(document, study, done, figures)
    _trade_offs(document, done, costs, judged, figures)
    if all(runs[0].config.task.name in predictions.LABEL_MAPS for runs in done.values()):
      _segmentation(document, study, done, figures)
    else:
      _confusions_if_any(document, done, figures)
    # Label maps are among the stages above; what else a task shows is not.
    shown = {
      v: runs for v, runs in done.items() if _task(runs) != "segmentation" and v not in probes
    }
    if shown:
      _examples(document, shown, figures)
  textfiles.replace_text(output / "report.md", document.markdown(output))
  textfiles.replace_text(output / "report.html", document.html())
  return output / "report.html"


def _setup(document, study, results, done, costs):
  document.heading("What was run")
  rows = []
  for label, spec in study.variants.items():
    errors = [f"seed {r.seed}: {r.error}" for r in results if r.label == label and r.error]
    start = _start([r for r in results if r.label == label])
    rows.append(
      (
        label,
        spec,
        _pairs(study_lib.changes(study, label)),
        start,
        len(done.get(label, ())),
        "; ".join([*errors, *filter(None, [study.notes.get(label)])]),
      )
    )
  header = ("variant", "config", "changes", "starts from", "runs", "notes")
  told = [k for k in range(len(header)) if any(str(row[k]) for row in rows)]  # not empty columns
  document.table([header[k] for k in told], [[row[k] for k in told] for row in rows])
  device = jax.devices()[0]
  sizes = sorted({"x".join(map(str, c.size)) for of_run in costs.values() for c in of_run})
  document.text(
    f"Seeds {', '.join(map(str, study.seeds))}; overrides: {_pairs(study.overrides) or 'none'}. "
    "The config files say the rest. This report was written on "
    f"{jax.device_count()} x {device.device_kind} ({os.cpu_count()} CPU cores), jax "
    f"{jax.__version__}; runs that were finished before keep the minutes and the latency that were "
    f"measured then. GFLOPs and latency are of images of {' or '.join(sizes) or '-'} pixels."
  )


def _pairs(fields):
  return ", ".join(f"{k}={v}" for k, v in fields.items())


def _scalars(study, done):
  """Names of the scalars of an evaluation that are not of one class, the study's metric first."""
  names = [k for runs in done.values() for k in runs[0].final()]
  names = [k for k in names if k.startswith("val/") and k.count("/") == 1]
  return list(dict.fromkeys([study.metric, *(n for n in names if "threshold" not in n)]))


def _start(runs):
  if runs[0].config is None:
    return "-"
  start = runs[0].config.init_from
  if start in PRETRAINED:
    return "ImageNet weights"
  return f"weights of {start}" if start else "random weights"


def _task(runs):
  return runs[0].config.task.name


def text_of(name):
  """Readable name of a scalar, with its unit where it has one.

  >>> text_of("val/f1/road")
  'F1 of road'
  """
  metric, *of = name.removeprefix("val/").split("/")
  text = " of ".join((CLASS_METRICS.get(metric, metric), *of)).replace("_", " ")
  return TEXTS.get(name, text)


def _knn(done, probes):
  """(variant, seed) -> kNN accuracy of the last layer, before and after."""
  return {
    (v, run.seed): probe.accuracy[probes_lib.LAST]
    for v in probes for run, probe in zip(done[v], probes[v], strict=True) if probe.accuracy
  }  # fmt: skip


def _judged(done, knn):
  """What all variants are ranked by: (text, 1 where high values are good or -1, variant -> values).

  None where they have nothing in common.
  """
  if all((v, r.seed) in knn for v, runs in done.items() for r in runs):
    return "kNN accuracy", 1, {v: [knn[v, r.seed][1] for r in runs] for v, runs in done.items()}
  config = next(iter(done.values()))[0].config
  if len({(runs[0].config.best_metric, runs[0].config.best_mode) for runs in done.values()}) > 1:
    return None
  values = {v: [r.best() for r in runs] for v, runs in done.items()}
  return f"best {text_of(config.best_metric)}", _sign(config), values


def _numbers(document, study, done, costs, judged, knn):
  document.heading("Results")
  names = _scalars(study, done)
  header = ["variant", "seeds", *map(text_of, names)]
  header += [judged[0]] if judged else []
  header += ["training minutes"]
  devices = [c.device for c in next(iter(costs.values()))]
  header += [f"latency, ms ({d})" for d in devices]
  header += ["parameters", "MB", "GFLOPs an image"]
  rows = []
  for label, runs in done.items():
    finals = [r.final() for r in runs]
    row = [label, len(runs)]
    row += [mean_and_deviation([f.get(n, np.nan) for f in finals]) for n in names]
    row += [mean_and_deviation(judged[2][label])] if judged else []
    row += [mean_and_deviation([r.minutes() for r in runs], 1)]
    row += [f"{c.latency_ms:.1f}" for c in costs[label]]
    c = costs[label][0]
    rows.append([*row, f"{c.parameters:,}", f"{c.mb:.2f}", f"{c.gflops:.2f}"])
  document.table(header, rows)
  best = (
    "; 'best' is the best evaluation of each run, chosen on the same set and so a little flattering"
  )
  document.text(
    "Validation set after the last step, mean ± sample standard deviation over seeds"
    f"{best if judged and judged[0].startswith('best') else ''}. Latency is the median at batch 1."
  )
  if knn:
    document.text(
      "Loss, accuracy and the like are of what a net was trained to say without labels; kNN "
      "accuracy is of the classes, by the last layer's features."
    )
  first, *others = done
  pairs = study.compare or [(first, label) for label in others]
  rows = []
  for base, label in pairs:
    if base not in done or label not in done:
      continue
    values = {text_of(n): lambda r, n=n: r.final().get(n, np.nan) for n in names}
    tasks = {_task(done[base]), _task(done[label])}
    if len(tasks) > 1:  # their losses are different things
      del values[text_of("val/loss")]
      if any(TASKS[t].self_supervised for t in tasks):  # all of theirs are
        values = {}
    if knn:
      values["kNN accuracy"] = lambda r: knn.get((r.label, r.seed), (np.nan,))[-1]
    values |= {"training minutes": study_lib.Result.minutes}
    for text, value in values.items():
      d = paired_difference(*_paired(done[base], done[label], value))
      if d.pairs and text not in map(text_of, OF_THE_DATA):
        rows.append((label, base, text, str(d), d.pairs, d.verdict))
  if not rows:
    return
  document.heading("Differences")
  header = ("variant", "compared with", "metric", "difference [95 % interval]", "seeds", "verdict")
  document.table(header, rows)
  document.text(
    "Student's t interval of the mean difference, paired by seed. 'Not distinguishable' where it "
    "contains 0; nothing is corrected for the number of comparisons."
  )


def _paired(first, second, value):
  """Values of both variants for the seeds that both have, as two lists."""
  a, b = ({r.seed: value(r) for r in runs} for runs in (first, second))
  shared = sorted(a.keys() & b.keys())
  return [a[s] for s in shared], [b[s] for s in shared]


def _features(document, done, probes, figures):
  """How well features tell the classes that no run was told, before and after."""
  document.heading("Features")
  rows = []
  for label, of_runs in probes.items():
    for layer in of_runs[0].accuracy:
      before, after = zip(*(p.accuracy[layer] for p in of_runs), strict=True)
      d = paired_difference(before, after)
      numbers = mean_and_deviation(before), mean_and_deviation(after), str(d)
      rows.append((label, layer, d.pairs, *numbers, d.verdict))
  if not rows:
    document.text("The data tell no classes, so features are not scored.")
    return
  header = ("variant", "layer", "seeds", "kNN accuracy before", "after",
            "difference [95 % interval]", "verdict")  # fmt: skip
  document.table(header, rows)
  document.text(
    f"Share of validation examples whose class most of their {features.NEIGHBORS} nearest "
    "neighbours (cosine) in the train split have. Where labels are masks, examples are crops, "
    f"{probes_lib.CROPS} of each class where there are as many; a crop's class is the one most of "
    "its pixels have. 'Before' are the random weights that a run began with. Stage i is the "
    "backbone's at stride 2^i, 'last' what the head of a classifier would get; all are means over "
    "positions. After rotation prediction a middle stage often tells more than the last. Student's "
    "t interval, paired by seed: it is of other seeds, not of other images."
  )
  for k, (label, of_runs) in enumerate(probes.items()):
    first = of_runs[0]
    captions = [f"kNN {a:.3f}" for a in first.accuracy[probes_lib.LAST]]
    file = figures / f"features_{k}.png"
    embedded = features.embed(first.vectors)
    features.scatter(embedded, first.labels, first.table, ("before", "after"), captions, file)
    document.figure(file, f"Features of {label}, last layer, seed {done[label][0].seed}.")


def _curves(document, study, done, figures):
  document.heading("Curves")
  runs = {v: [r.rows() for r in rs] for v, rs in done.items()}
  tasks = {_task(runs) for runs in done.values()}
  shown = {"loss": TASKS[tasks.pop()].loss_label} if len(tasks) == 1 else {}
  shown.setdefault(study.metric.removeprefix("val/"), text_of(study.metric))  # perhaps the loss
  file = charts.curves(runs, list(shown.items()), figures / "curves.png")
  document.figure(
    file,
    "Training (dashed) and validation (solid): mean over seeds, the band from the lowest to the "
    "highest seed. A training value is the mean since the evaluation before, augmentation on.",
  )


def _trade_offs(document, done, costs, judged, figures):
  document.heading("What it costs")
  axes = {
    "training minutes": {v: np.mean([r.minutes() for r in runs]) for v, runs in done.items()},
    "size, MB": {v: costs[v][0].mb for v in done},
  }
  for k, c in enumerate(next(iter(costs.values()))):
    axes[f"latency at batch 1, ms ({c.device})"] = {v: costs[v][k].latency_ms for v in done}
  ranks = {}
  if judged:
    value_text, sign, value = judged
    ranks[value_text] = _ranking({v: -sign * np.mean(x) for v, x in value.items()})
    spread = {v: np.std(x, ddof=1) if len(x) > 1 else np.nan for v, x in value.items()}
  # Where some start from weights, each dot says what it starts from.
  told = len({_start(runs) for runs in done.values()}) > 1
  names = {v: f"{v} ({_start(runs)})" if told else v for v, runs in done.items()}
  for text, by in axes.items():
    ranks[text] = _ranking(by)
    if not judged:
      continue
    points = {names[v]: (by[v], np.mean(value[v]), spread[v]) for v in done}
    name = "".join(c if c.isalnum() else "_" for c in text.split(",")[0].lower())
    name += "_" + text.split("(")[-1].rstrip(")").replace(" ", "_") if "(" in text else ""
    file = figures / f"trade_{name}.png"
    charts.scatter(points, (text, value_text), file, high_is_good=sign > 0)
    document.figure(file, f"{value_text} against {text}; bars: standard deviation over seeds.")
  document.table(
    ("ranking (1 is best)", *done), [(text, *(r[v] for v in done)) for text, r in ranks.items()]
  )
  document.table(
    ("variant", "device", "latency, ms", "quartiles apart, ms", "images/s at batch 8",
     "peak memory, MB", "compile time, s"),
    [
      (v, c.device, f"{c.latency_ms:.1f}", f"{c.latency_spread_ms:.1f}", f"{c.images_per_s:.1f}",
       f"{c.peak_mb:.0f}", f"{c.compile_s:.1f}")
      for v in done for c in costs[v]
    ],
  )  # fmt: skip


def _sign(config):
  """1 where high values of the best metric are good, else -1."""
  return 1 if config.best_mode == "max" else -1


def _ranking(values):
  """Place of each, 1 for the lowest; equal values share one, what is not a number has none.

  >>> _ranking({"a": 3, "b": 1, "c": 3, "d": np.nan})
  {'a': 2, 'b': 1, 'c': 2, 'd': '-'}
  """
  places = {k: 1 + sum(other < v for other in values.values()) for k, v in values.items()}
  return {k: "-" if np.isnan(values[k]) else place for k, place in places.items()}


def _segmentation(document, study, done, figures):
  """Per-class bars, confusion matrices, best and worst regions, stages of training."""
  first = next(iter(done.values()))[0]
  labels = restore.run(first.workdir)[0].labels
  document.heading("Classes")
  iou = {
    v: [[r.final().get(f"val/iou/{c}", np.nan) for c in labels.names] for r in runs]
    for v, runs in done.items()
  }
  colors = np.array([color for _, color in labels.classes])
  file = charts.class_bars(iou, labels.names, colors, figures / "iou_by_class.png")
  document.figure(file, "IoU of each class on the validation set.")
  rows = []
  for metric in ("iou", "precision", "recall", "f1"):
    for c in labels.names:
      values = [
        [r.final().get(f"val/{metric}/{c}", np.nan) for r in runs] for runs in done.values()
      ]
      rows.append(
        (CLASS_METRICS.get(metric, metric), c, *(mean_and_deviation(v, 3) for v in values))
      )
  document.table(("metric", "class", *done), rows)
  _confusions(document, labels.names, done, figures)
  sign = _sign(first.config)
  best = max(done, key=lambda v: sign * np.mean([r.best() for r in done[v]]))
  document.heading(f"Best and worst regions of '{best}'")
  intact.or_line(
    document, f"Regions of {best}", lambda: _regions(document, done[best][0], labels, figures)
  )
  document.heading("Stages of training")
  for k, runs in enumerate(done.values()):
    file = figures / f"stages_{k}.png"
    what = f"Stages of {runs[0].label}"
    intact.or_line(document, what, lambda r=runs[0], f=file: _stages(document, r, f))


def _regions(document, run, labels, figures):
  predictor = predictions.Predictor(run.workdir, moved=_moved(run))
  found = regions.best_and_worst(predictor, len(labels))
  document.figure(
    write_picture(regions.picture(found, labels), figures / "regions.png"),
    f"For each class the windows of the validation set with the highest and the lowest IoU (seed "
    f"{run.seed}): image | truth (striped: ignored) | prediction. 'None' where the class nowhere "
    "reaches 0.5, nowhere stays below, or is too small everywhere.",
  )


def _stages(document, run, file):
  picture, steps = predictions.stages(run.workdir, moved=_moved(run))
  write_picture(picture, file)
  text = ", ".join(map(str, steps))
  document.figure(file, f"{run.label}, seed {run.seed}: fixed examples after {text} steps.")


def _moved(run):
  """Where a run's data lie now."""
  source = run.config.data.source
  return {k: source[k] for k in ("folder", "data_dir") if k in source}


def _confusions(document, names, done, figures):
  for k, (label, runs) in enumerate(done.items()):
    matrix = sum(r.sums()["matrix"] for r in runs)
    file = figures / f"confusion_{k}.png"
    charts.confusion(matrix, names, f"{label}: {len(runs)} runs together", file)
    document.figure(file, f"Confusion of {label}: each row sums to 1.")


def _confusions_if_any(document, done, figures):
  """Confusion matrices of the variants whose tasks have classes."""
  done = {v: runs for v, runs in done.items() if "matrix" in runs[0].sums()}
  if done:
    first = next(iter(done.values()))[0]
    document.heading("Classes")
    _confusions(document, restore.run(first.workdir)[0].task.classes, done, figures)


def _examples(document, done, figures):
  """Validation examples with what each variant makes of them."""
  first = next(iter(done.values()))[0]
  document.heading("Examples")
  workdirs = {v: runs[0].workdir for v, runs in done.items()}
  draw = lambda: predictions.side_by_side(workdirs, moved=_moved(first))  # noqa: E731
  picture = intact.or_line(document, "Examples", draw)
  if picture is not None:
    file = write_picture(picture, figures / "examples.png")
    document.figure(file, f"Validation examples after the last step, seed {first.seed}.")


def _costs(run):
  """Costs of a run's model on the default device, and on the CPU if that is another; kept."""
  devices = [jax.devices()[0]]
  if devices[0].platform != "cpu":
    devices.append(jax.devices("cpu")[0])
  out, loaded = [], None
  for device in devices:
    key = re.sub(r"\W+", "_", f"{device.device_kind}_jax_{jax.__version__}")
    file = run.workdir / f"cost_{key}.json"
    measured = cost.load(file)
    if measured is None:
      loaded = loaded or restore.run(run.workdir)
      measured = cost.measure(*loaded, run.config.data.size, device=device)
      measured.save(file)
    out.append(measured)
  return out


def _csv(study, results, costs, knn):
  """A row a run; columns that begin with time/ differ from run to run, the others do not."""
  done = [r for r in results if not r.error]
  names = sorted({k for r in done for k in r.final() if k.startswith("val/")})
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator="\n")
  head = ["variant", "seed", "status", "identity", "parameters", "mb", "gflops", "best"]
  head += ["knn_accuracy_before", "knn_accuracy"] if knn else []
  writer.writerow([*head, *names, "time/minutes", "time/latency_ms", "time/images_per_s"])
  for r in results:
    start = [r.label, r.seed, r.error or "done", r.config and study_lib.identity(r.config)]
    if r.error:
      writer.writerow(start)
      continue
    c, final = costs[r.label][0], r.final()
    numbers = [c.parameters, c.mb, c.gflops, r.best()]
    numbers += knn.get((r.label, r.seed), (np.nan, np.nan)) if knn else ()
    numbers += [final.get(n, np.nan) for n in names]
    writer.writerow([*start, *numbers, r.minutes(), c.latency_ms, c.images_per_s])
  return buffer.getvalue()
