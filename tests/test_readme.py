"""The README files: commands name files and flags that there are; Python runs."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import tomllib

import pytest
from conftest import DATA, ROOT, run_with_core_packages, write_pairs
from PIL import Image

from segjax import config as config_lib
from segjax import study as study_lib
from segjax.analysis.commands import COMMANDS
from segjax.errors import UserError

DOCUMENTS = ("README.md", "configs/README.md", "launch/README.md")
DEFINED = {  # functions of segjax.cli
  "define_config": {"config"},
  "define_own_code": {"config"},
  "define_view": {"mode", "tiles", "overlap", "tta"},
  "define_distributed": {"distributed", "heartbeat_seconds"},
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(document):
  return (ROOT / document).read_text(encoding="utf-8")


def blocks(document, *languages):
  return [body for language, body in BLOCK.findall(text_of(document)) if language in languages]


def commands(document):
  """The commands of code blocks and code spans, each as a list of words."""
  lines, variables = [], {}
  for block in blocks(document, "bash", ""):
    lines += block.replace("\\\n", " ").splitlines()
  spans = re.findall(r"`((?:python|pip) [^`]+)`", BLOCK.sub("", text_of(document)))
  found = []
  for line in [*lines, *spans]:
    set_variable = re.fullmatch(r'(\w+)="(.*)"', line)
    if set_variable:
      variables[set_variable[1]] = set_variable[2]
      continue
    whole = re.sub(r"\$(\w+)", lambda m: variables[m[1]], line)
    found += [shlex.split(part, comments=True) for part in whole.split(" && ")]
  return [words for words in found if words and words[0] in ("python", "pip")]


def flags_of(launcher):
  """Names of the flags that a launcher defines, by its source."""
  calls = [n for n in ast.walk(ast.parse(launcher.read_text())) if isinstance(n, ast.Call)]
  calls = [n for n in calls if isinstance(n.func, ast.Attribute)]
  names = {n.args[0].value for n in calls if n.func.attr.startswith("DEFINE_")}
  for function, flags in DEFINED.items():
    names |= flags if any(n.func.attr == function for n in calls) else set()
  return names


def check_launcher(words):
  """Fails where a command of a launcher has a file, an argument, a flag or a field there is not."""
  launcher, *arguments = words
  assert (ROOT / launcher).is_file(), launcher
  if launcher == "launch/analyze.py":
    assert arguments[0] in COMMANDS, arguments[0]
    arguments = arguments[1:]
  flags, configs, fields = flags_of(ROOT / launcher), [], []
  for argument in arguments:
    name, _, value = re.fullmatch(r"--([\w.]+)(=(.+))?", argument, re.DOTALL).groups()
    if name.startswith("config."):
      sets_fields = "cli.define_config()" in (ROOT / launcher).read_text()
      assert sets_fields or launcher == "launch/study.py", argument
      fields.append(name.removeprefix("config."))
      continue
    assert name in flags, f"{launcher} has no flag --{name}"
    if name == "config":
      configs.append(config_lib.read(value))
    if name == "study":
      study = study_lib.read(value)
      configs += [study_lib.make_config(study, variant, 0) for variant in study.variants]
  for field in fields:
    assert all(field in config_lib.flatten(c) for c in configs), f"no field {field}"


def check(words, extras):
  if words[0] == "pip":
    assert words[1] == "install", words
    used = re.findall(r"\.\[([\w,]+)\]", " ".join(words))
    assert all(extra in extras for names in used for extra in names.split(",")), words
  elif words[1] == "-m":
    assert importlib.util.find_spec(words[2]), words[2]
  else:
    check_launcher(words[1:])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_name_what_there_is(document, monkeypatch):
  monkeypatch.chdir(ROOT)
  extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
  found = commands(document)
  assert len(found) >= 10
  for words in found:
    check(words, extras)


@pytest.mark.parametrize(
  "command",
  [
    "python launch/trian.py --config=configs/unet_road.py",
    "python launch/train.py --config=configs/unet_raod.py",
    "python launch/train.py --config=configs/unet_road.py:skpi=0",
    "python launch/train.py --config=configs/unet_road.py --config.schedule.rate=1",
    "python launch/train.py --config=configs/unet_road.py --work_dir=runs/x",
    "python launch/evaluate.py --workdir=runs/x --config.seed=1",
    "python launch/analyze.py crop --workdir=runs/x",
    "python launch/study.py --study=configs/studies/aspp.py --config.total_epoch=1",
    "python -m segjax.model",
    'pip install -e ".[tests]"',
  ],
)
def test_mistakes_in_commands_are_found(command, monkeypatch):
  monkeypatch.chdir(ROOT)
  with pytest.raises((AssertionError, UserError)):
    check(shlex.split(command), {"test": []})


def shorten(line):
  """The same command with trainings of six steps, by the argument `smoke`, and with two seeds."""
  configs = re.compile(r"(/(?:train|study)\.py --(?:config|study)=[\w/]+\.py)(:\S+)?")
  line = configs.sub(lambda m: f"{m[1]}{f'{m[2]},' if m[2] else ':'}smoke", line)
  return re.sub(r"--seeds=\d+", "--seeds=2", line)


BLOCKS = [
  [line for line in block.splitlines() if not line.startswith("pip ")]  # CI runs those
  for block in blocks("README.md", "bash")
]
LEFT = {  # by a block's first line: a file of each command
  "python launch/train.py --config=configs/unet_road.py --workdir=runs/road": (
    "runs/road/metrics.jsonl", "runs/road/evaluation_val_*_images.csv", "out/photo_overlay.png",
    "road.stablehlo", "runs/road/figures/crops.png",
  ),
  "python launch/analyze.py data --config=configs/segmentation_folder.py "
  "--config.data.source.folder=PATH": (
    "runs/analysis-segmentation_folder-photos/classes_train.png",
    "runs/segmentation_folder-*/metrics.jsonl",
  ),
  "python launch/train.py --config=configs/unet_road.py:skip=0 --config.optimizer.name=sgd "
  "--config.seed=1": ("runs/unet_road_noskip-*/metrics.jsonl", "runs/studies/*/report.html"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("lines", [lines for lines in BLOCKS if lines], ids=lambda lines: lines[0])
def test_commands_run(lines, tmp_path):
  """One after the other, `shorten`ed, with a folder in the place of PATH."""
  if any("kitti_road" in line for line in lines) and not (DATA / "kitti_road").is_dir():
    pytest.skip("KITTI road is not in SEGJAX_DATA")
  for name in ("launch", "configs"):
    (tmp_path / name).symlink_to(ROOT / name)
  write_pairs(tmp_path / "photos", count=20)
  Image.open(tmp_path / "photos/images/x000.png").save(tmp_path / "photo.jpg")
  left = LEFT[lines[0]]
  assert len(left) == len(lines)
  for line, file in zip(lines, left, strict=True):
    done = subprocess.run(
      ["bash", "-c", shorten(line).replace("PATH", "photos")], cwd=tmp_path, capture_output=True,
      text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, line + done.stdout[-2000:] + done.stderr
    (path,) = tmp_path.glob(file)
    assert path.stat().st_size > 0


def test_trainings_are_shortened():
  assert shorten("python launch/train.py --config=configs/a.py:skip=0 --config.seed=1") == (
    "python launch/train.py --config=configs/a.py:skip=0,smoke --config.seed=1"
  )
  assert shorten("python launch/study.py --study=configs/studies/b.py --seeds=5") == (
    "python launch/study.py --study=configs/studies/b.py:smoke --seeds=2"
  )
  line = "python launch/analyze.py data --config=configs/c.py"
  assert shorten(line) == line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_configs_in_tables_exist(document, monkeypatch):
  monkeypatch.chdir(ROOT)
  folder = (ROOT / document).parent
  text = BLOCK.sub("", text_of(document))
  for link, anchor in re.findall(r"\]\(([\w./]*)(?:#([\w-]+))?\)", text):
    target = folder / link if link else ROOT / document
    assert target.exists(), link
    if anchor:
      headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
      anchors = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
      assert anchor in anchors, f"{link}#{anchor}"
  if document == "README.md":
    rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    specs = re.findall(r"`(\w+\.py(?::[^`]*)?)`", rows)
    assert len(specs) >= 6
    for spec in specs:
      config_lib.read(f"configs/{spec}")


@pytest.mark.parametrize("block", blocks("README.md", "python"))
def test_python_runs_with_the_packages_of_the_nets_alone(block):
  done = run_with_core_packages(block)
  assert done.returncode == 0, done.stderr
  first_loss, first_iou, loss, iou = map(float, re.findall(r"\d+\.\d+", done.stdout))
  assert loss < 0.5 * first_loss
  assert iou > first_iou + 0.3


def test_the_packages_of_the_nets_alone():
  (line,) = re.findall(r"`pip install ([\w ]+) && pip install --no-deps \.`", text_of("README.md"))
  assert set(line.split()) == {"jax", "flax", "optax", "numpy", "ml_collections"}


def test_the_readme_stays_short():
  lines = text_of("README.md").splitlines()
  assert len(lines) < 170
  assert max(len(line) for line in lines if not line.startswith("|")) <= 110
