"""The report of a study: tables and figures as Markdown, self-contained HTML and CSV."""

from __future__ import annotations

import csv
import io
import re

import numpy as np

from segjax import study as study_lib
from segjax import textfiles
from segjax.analysis import answer, report_figures, report_images, report_tables
from segjax.analysis import probes as probes_lib
from segjax.analysis.document import Document
from segjax.analysis.variants import common_score, costs_of, data_now, knn_of, task_of
from segjax.tasks import LABEL_MAPS, TASKS

FIGURES = re.compile(
  r"(curves|trade_\w+|iou_by_class|confusion_\d+|regions|stages_\d+|features_\d+|examples|worst|"
  r"reliability)\.(png|pdf)"
)


def write(study, results, output):
  """Writes `report.md`, `report.html`, `results.csv` and `figures/` of a study.

  Args:
    study: study.Study.
    results: result of `study.run`, without damaged runs, see `intact.checked`.
    output: folder, made if need be.

  Returns:
    Path of the HTML file.
  """
  figures = output / "figures"
  figures.mkdir(parents=True, exist_ok=True)
  for file in figures.iterdir():  # of a report before, of more variants perhaps
    if FIGURES.fullmatch(file.name):
      file.unlink()
  done = {v: [r for r in results if r.variant == v and not r.error] for v in study.variants}
  done = {v: runs for v, runs in done.items() if runs}
  document = Document(study.title)
  document.text(study.question)
  costs = {v: costs_of(runs[0]) for v, runs in done.items()}
  probes = {
    v: [probes_lib.probe(r.workdir, data_now(r)) for r in runs]
    for v, runs in done.items()
    if TASKS[task_of(runs)].self_supervised
  }
  knn = knn_of(done, probes)
  if done:
    score = answer.score_of(study, done, knn)
    document.answer(answer.sentence(score))
    if unmeasured := answer.unmeasured(study, done):
      document.text(unmeasured)
  textfiles.replace_text(output / "results.csv", _csv(study, results, costs, knn))
  report_tables.setup(document, study, results, done, costs)
  if done:
    judged = common_score(done, knn)
    report_tables.numbers(document, study, done, costs, judged, knn)
    draws = report_images.draws_of(done)
    report_images.table(document, study, done, draws)
    tested = report_images.scores_on_test(document, done)
    report_images.table_of_test(document, study, done, tested)
    report_tables.differences(document, study, done, knn, draws)
    if probes:
      report_tables.features(document, done, probes, figures)
    report_figures.curves(document, study, done, figures)
    report_figures.trade_offs(document, done, costs, score, figures)
    if all(runs[0].config.task.name in LABEL_MAPS for runs in done.values()):
      report_figures.segmentation(document, study, done, figures)
    else:
      report_figures.confusions(document, done, figures)
    # Label maps are among the stages above; other pictures of a task are not.
    shown = {
      v: runs for v, runs in done.items() if task_of(runs) != "segmentation" and v not in probes
    }
    if shown:
      report_figures.examples(document, shown, figures)
  textfiles.replace_text(output / "report.md", document.markdown(output))
  textfiles.replace_text(output / "report.html", document.html())
  return output / "report.html"


def _csv(study, results, costs, knn):
  """A row per run; columns that begin with time/ differ from run to run, the others do not."""
  finals = {(r.variant, r.seed): r.final() for r in results if not r.error}
  names = sorted({k for final in finals.values() for k in final if k.startswith("val/")})
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator="\n")
  head = ["variant", "seed", "status", "identity", "parameters", "mb", "gflops", "best"]
  head += ["knn_accuracy_before", "knn_accuracy"] if knn else []
  writer.writerow([*head, *names, "time/minutes", "time/latency_ms", "time/images_per_s"])
  for r in results:
    status = textfiles.cell(r.error or "done")
    start = [textfiles.cell(r.variant), r.seed, status, r.config and study_lib.identity(r.config)]
    if r.error:
      writer.writerow(start)
      continue
    c, final = costs[r.variant][0], finals[r.variant, r.seed]
    numbers = [c.parameters, c.mb, c.gflops, r.best()]
    numbers += knn.get((r.variant, r.seed), (np.nan, np.nan)) if knn else ()
    numbers += [final.get(n, np.nan) for n in names]
    writer.writerow([*start, *numbers, r.minutes(), c.latency_ms, c.images_per_s])
  return buffer.getvalue()
