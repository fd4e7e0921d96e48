"""Claims of folders: one owner, dead ones, other machines, owners that were taken for dead."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from segjax import claims

OTHER = dict(host="moon", pid=7, machine="another boot", since="1")


@pytest.fixture
def sleeper():
  """A process that claims the folder of its argument and sleeps."""
  started = []

  def start(folder):
    code = "import sys, time, pathlib; from segjax import claims\n"
    code += "c = claims.claim(pathlib.Path(sys.argv[1])); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
    process.stdout.readline()
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    process.wait()


def write(folder, number, value, age=0.0):
  file = folder / f"claim.{number}"
  file.write_text(value if isinstance(value, str) else json.dumps(value))
  now = file.stat().st_mtime
  os.utime(file, (now - age, now - age))
  return file


def test_a_claim_dies_with_its_owner_by_sigkill(tmp_path, sleeper):
  process = sleeper(tmp_path)
  assert claims.owner(tmp_path).startswith(f"process {process.pid} on ")
  with pytest.raises(claims.InUse, match=f"process {process.pid} on .* trains in it"):
    claims.claim(tmp_path)
  process.send_signal(signal.SIGSTOP)
  write(tmp_path, 1, (tmp_path / "claim.1").read_text(), age=9999)
  assert claims.owner(tmp_path)  # suspended, on this machine: it lives
  process.kill()
  ends = time.monotonic() + 20  # the system takes its time on a busy machine
  while claims.owner(tmp_path) and time.monotonic() < ends:
    time.sleep(0.01)
  assert claims.owner(tmp_path) == ""  # though nobody has waited for it
  held = claims.claim(tmp_path)
  assert held.number == 2 and [p.name for p in tmp_path.iterdir()] == ["claim.2"]
  held.release()
  assert claims.owner(tmp_path) == ""


def test_no_folder_has_no_owner(tmp_path):
  (tmp_path / "file").write_text("")
  assert claims.owner(tmp_path / "none") == claims.owner(tmp_path / "file" / "x") == ""


def test_a_number_that_another_process_has_now_is_not_its_owner(tmp_path):
  me = json.loads(claims.claim(tmp_path)._file.read_text())
  write(tmp_path, 2, me | dict(since="0"))
  assert claims.owner(tmp_path) == ""


@pytest.mark.parametrize("text", [OTHER, "", "[7]"])
def test_an_owner_on_another_machine_is_dead_after_a_while(tmp_path, text):
  write(tmp_path, 4, text, age=claims.DEAD - 20)
  name = "process 7 on moon" if text == OTHER else "another process"
  assert claims.owner(tmp_path) == name
  with pytest.raises(claims.InUse, match=name):
    claims.claim(tmp_path)
  write(tmp_path, 4, text, age=claims.DEAD + 20)
  assert claims.claim(tmp_path).number == 5


def test_a_clock_that_was_set_back_does_not_hold_a_folder_for_ever(tmp_path):
  write(tmp_path, 4, OTHER, age=20 - claims.DEAD)
  assert claims.owner(tmp_path) == "process 7 on moon"  # clocks of a network differ a little
  write(tmp_path, 4, OTHER, age=-86400)
  assert claims.owner(tmp_path) == ""


def test_a_claim_that_only_another_user_can_read_counts(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")

  for age, name in ((9, "another process"), (claims.DEAD + 20, "")):
    write(tmp_path, 4, OTHER, age=age)
    with monkeypatch.context() as patch:
      patch.setattr(claims.Path, "open", refuse)
      assert claims.owner(tmp_path) == name


def test_the_clock_is_that_of_the_files(tmp_path, monkeypatch):
  write(tmp_path, 1, OTHER, age=30)
  monkeypatch.setattr(claims.time, "time", lambda: 1e12)  # this machine's clock is wrong
  assert claims.owner(tmp_path) == "process 7 on moon"


def test_of_many_at_once_one_gets_it(tmp_path):
  write(tmp_path, 3, "{}")  # given free
  start, held, lost = threading.Barrier(8), [], []

  def attempt():
    start.wait()
    try:
      held.append(claims.claim(tmp_path))
    except claims.InUse:
      lost.append(1)

  threads = [threading.Thread(target=attempt) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert [c.number for c in held] == [4] and len(lost) == 7


def test_who_was_taken_for_dead_sees_it(tmp_path):
  held = claims.claim(tmp_path)
  held.check()
  write(tmp_path, 2, OTHER)
  with pytest.raises(claims.TakenOver, match=r"by process 7 on moon: .* no sign of life"):
    held.check()
  held.release()
  assert claims.owner(tmp_path) == "process 7 on moon"


def test_a_file_that_is_made_late_counts_for_nothing(tmp_path, monkeypatch):
  """A process that slept before it made its file, while others came, went and removed theirs."""
  seen = iter([3])  # what it saw before; the folder is at 6 now
  numbers = claims._numbers
  write(tmp_path, 6, OTHER)
  monkeypatch.setattr(claims, "_newest", lambda f: next(seen, max(numbers(f), default=0)))
  monkeypatch.setattr(claims, "owner", lambda folder: "")
  with pytest.raises(claims.InUse):
    claims.claim(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ["claim.6"]


def test_signs_of_life(tmp_path, monkeypatch):
  monkeypatch.setattr(claims, "BEAT", 0.01)
  held, beaten = claims.claim(tmp_path), threading.Event()
  utime = os.utime

  def beat(file):
    utime(file)
    beaten.set()

  monkeypatch.setattr(claims.os, "utime", beat)
  write_time = 1000.0
  utime(held._file, (write_time, write_time))
  beaten.clear()
  assert beaten.wait(5) and held._file.stat().st_mtime > write_time
  held.release()
