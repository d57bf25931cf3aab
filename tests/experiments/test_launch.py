"""What starts runs on clusters: as far as can be told without one."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from absl import flags

from experiments import train

ROOT = Path(train.__file__).parents[1]
LAUNCH = ROOT / "experiments" / "launch"
SCRIPTS = ("tpu_pod.sh", "slurm.sbatch")
GUIDE = (ROOT / "docs" / "launch.md").read_text()


@pytest.fixture
def execute(tmp_path):
  """Runs a script with stand-ins for programs that are not here.

  `execute(name, *arguments, gcloud="exit 3")`: each of these is a script, and
  what they were called with is in `calls`.
  """
  folder = tmp_path / "bin"
  folder.mkdir()
  log = tmp_path / "calls.txt"
  log.touch()

  def run(name, *arguments, env=None, **programs):
    for program, body in programs.items():
      path = folder / program
      path.write_text(
        "#!/usr/bin/env bash\n"
        f"printf '%s\\0' {program} \"$@\" $'\\x01' >> "
        f"{shlex.quote(str(log))}\n{body}\n"
      )
      path.chmod(0o755)
    done = subprocess.run(
      ["bash", str(LAUNCH / name), *arguments],
      env={"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **(env or {})},
      capture_output=True,
      text=True,
      timeout=60,
    )
    done.calls = [
      call.split("\0")[:-1] for call in log.read_text().split("\x01\0")[:-1]
    ]
    return done

  return run


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_bash(name):
  done = subprocess.run(
    ["bash", "-n", str(LAUNCH / name)], capture_output=True, text=True
  )
  assert (done.returncode, done.stderr) == (0, "")
  assert "set -euo pipefail" in (LAUNCH / name).read_text()


def _unquoted(line):
  """The variables of a line of bash that are outside of double quotes."""
  line = re.sub(r"'[^']*'", "", re.sub(r"(?<!\$)\(\(.*?\)\)", "", line))
  found, quoted = [], False
  # The quotes within a substitution are its own.
  while inner := re.search(r"\$\(([^()]*)\)", line):
    found += _unquoted(inner[1])
    line = line.replace(inner[0], "$result")
  for match in re.finditer(r'\\.|"|\$[\w{@*]\w*', line):
    if match[0] == '"':
      quoted = not quoted
    elif match[0].startswith("$") and not quoted:
      found.append(match[0])
  return found


def test_variables_outside_of_quotes_are_found():
  assert _unquoted('cd $HOME && echo "$x" ${y}') == ["$HOME", "${y"]
  assert _unquoted('cd "$(dirname "$0")" $(ls $x)') == ["$x", "$result"]
  assert _unquoted("echo '$x' \"a $y b\" \\$z") == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_variables_are_quoted(name):
  text = (LAUNCH / name).read_text().replace("\\\n", " ")
  quoted, open_quote = [], ""
  for line in text.splitlines():
    line = re.sub(r"(^|\s)#.*", "", line)
    # Quotes may go on over several lines.
    open_quote += line + " "
    if len(re.findall(r'(?<!\\)"', open_quote)) % 2 == 0:
      quoted.append(open_quote)
      open_quote = ""
  assert open_quote == ""
  assert [found for line in quoted for found in _unquoted(line)] == []


def _jobset():
  return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def _commands():
  """The arguments of experiments.train in all files, and in the guide."""
  texts = [(LAUNCH / name).read_text() for name in SCRIPTS] + [GUIDE]
  (slice_,) = _jobset()["spec"]["replicatedJobs"]
  pod = slice_["template"]["spec"]["template"]["spec"]
  texts.append(" ".join(pod["containers"][0]["command"]))
  found = []
  for text in texts:
    text = re.sub(r"\\\n#?", " ", text)
    for command in re.findall(
      r"(?:experiments\.train|tpu_pod\.sh train|slurm\.sbatch) (.*)", text
    ):
      found += re.findall(r"(?<!\S)--([\w.]+)(?:=([^\s`]+))?", command)
  return found


def test_flags_in_them_exist():
  found = _commands()
  # As many as there are at least, or else nothing was looked at.
  assert len(found) > 10
  known = set(flags.FLAGS)
  for name, _ in found:
    assert name.partition(".")[0] in known, name


def test_configs_in_them_exist():
  configs = [value for name, value in _commands() if name == "config"]
  assert len(configs) >= 3
  for config in configs:
    assert (ROOT / config).is_file(), config


def test_overrides_in_them_are_keys_of_the_config(monkeypatch):
  from experiments.configs import published

  keys = [n.removeprefix("config.") for n, _ in _commands() if "config." in n]
  assert keys
  config = published.get_config().copy_and_resolve_references()
  for key in keys:
    value = config
    for part in key.split("."):
      assert part in value, key
      value = value[part]


def test_the_jobset_has_a_pod_for_each_host():
  spec = _jobset()["spec"]
  (slice_,) = spec["replicatedJobs"]
  job = slice_["template"]["spec"]
  pod = job["template"]["spec"]
  rows, columns = map(
    int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
  )
  resources = pod["containers"][0]["resources"]
  chips = resources["limits"]["google.com/tpu"]
  assert resources["requests"] == resources["limits"]
  assert job["parallelism"] == job["completions"] == rows * columns // chips
  assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
  assert pod["restartPolicy"] == "Never"  # what a podFailurePolicy needs
  claims = {volume["name"] for volume in pod["volumes"]}
  mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
  assert claims == mounts


def test_the_jobset_restarts_after_a_preemption_only():
  spec = _jobset()["spec"]
  (slice_,) = spec["replicatedJobs"]
  (rule,) = slice_["template"]["spec"]["podFailurePolicy"]["rules"]
  assert rule["onExitCodes"] == {"operator": "In", "values": [2, 3]}
  (action,) = spec["failurePolicy"]["rules"]
  assert action["action"] == "FailJobSet"
  assert spec["failurePolicy"]["maxRestarts"] > 0


SLURM = {"SLURM_JOB_ID": "17", "PYTHON": "my python"}


@pytest.mark.parametrize("code", [0, 1, 2, 3, 130])
def test_slurm_runs_the_command_and_ends_with_its_code(execute, code):
  done = execute(
    "slurm.sbatch", "--workdir=a b", env=SLURM, srun=f"exit {code}",
    scontrol="exit 0",
  )  # fmt: skip
  assert done.returncode == code, done.stderr
  assert done.calls == [
    ["srun", "my python", "-m", "experiments.train", "--workdir=a b"]
  ]


def test_slurm_requeues_a_run_that_saved_and_stopped(execute):
  done = execute(
    "slurm.sbatch", "--workdir=x", env=SLURM, srun="exit 143",
    scontrol="exit 0",
  )  # fmt: skip
  assert done.returncode == 143
  assert done.calls[1] == ["scontrol", "requeue", "17"]


def test_slurm_is_told_to_have_a_process_for_each_gpu():
  text = (LAUNCH / "slurm.sbatch").read_text()
  options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)", text, re.M))
  assert options["ntasks-per-node"] == options["gpus-per-node"]
  # SIGTERM to the processes: with B: it would come to the script alone.
  assert re.fullmatch(r"TERM@\d+", options["signal"])
  assert "requeue" in options and options["open-mode"] == "append"
  # Slurm reads its options up to the first command only.
  assert text.rindex("#SBATCH") < text.index("set -euo")


POD = {"TPU": "my-pod", "ZONE": "z-1"}


def test_a_pod_runs_the_command_on_all_hosts(execute, tmp_path):
  done = execute(
    "tpu_pod.sh", "train", "--config=c.py", "--workdir=a b", env=POD,
    gcloud="exit 0",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  (call,) = done.calls
  *head, command = call
  assert head == [
    "gcloud", "compute", "tpus", "tpu-vm", "ssh", "my-pod", "--zone=z-1",
    "--worker=all",
  ]  # fmt: skip
  # As the shell of a host would read it.
  folder = tmp_path / "pmrl_jax" / ".venv" / "bin"
  folder.mkdir(parents=True)
  python = folder / "python"
  python.write_text("#!/usr/bin/env bash\nprintf '%s\\n' \"$@\"\n")
  python.chmod(0o755)
  host = subprocess.run(
    ["bash", "-c", command.removeprefix("--command=")],
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert host.stdout.splitlines() == [
    "-m", "experiments.train", "--distributed=on", "--config=c.py",
    "--workdir=a b",
  ]  # fmt: skip


def test_a_pod_gets_what_is_committed(execute):
  done = execute(
    "tpu_pod.sh", "install", env=POD, gcloud="exit 0", git="exit 0"
  )
  assert done.returncode == 0, done.stderr
  archive, copy, install = done.calls
  assert "archive" in archive and archive[-1] == "HEAD"
  (output,) = [a for a in archive if a.startswith("--output=")]
  assert copy[4] == "scp" and output.removeprefix("--output=") in copy
  for call in (copy, install):
    assert "--worker=all" in call and "--zone=z-1" in call
  assert "[media,tpu]" in install[-1]


def test_a_pod_fails_as_the_command_does(execute):
  done = execute("tpu_pod.sh", "train", "-x", env=POD, gcloud="exit 143")
  assert done.returncode == 143


@pytest.mark.parametrize(
  ("name", "arguments", "env", "message"),
  [
    ("tpu_pod.sh", ["train", "-x"], {}, "the name of the TPU in TPU"),
    ("tpu_pod.sh", ["train", "-x"], {"TPU": "a"}, "its zone in ZONE"),
    ("tpu_pod.sh", [], POD, "usage: TPU=name"),
    ("tpu_pod.sh", ["train"], POD, "usage: TPU=name"),
    ("tpu_pod.sh", ["start"], POD, "usage: TPU=name"),
    ("slurm.sbatch", [], SLURM, "usage: sbatch"),
  ],
)
def test_what_is_missing_is_said(execute, name, arguments, env, message):
  done = execute(
    name, *arguments, env=env, gcloud="exit 0", srun="exit 0", git="exit 0"
  )
  assert done.returncode != 0 and message in done.stderr
  assert done.calls == []
