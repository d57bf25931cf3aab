"""The comparison of losses: who chooses, what is kept, what is printed."""

import json
import math
import re
import shutil
import signal
import time

import numpy as np
import pytest
from scipy import stats

from experiments.compare import __main__ as program
from experiments.compare import measures, study, tables, trainer
from experiments.compare.contenders import CONTENDERS, Contender
from experiments.compare.store import Key
from experiments.compare.study import Plan, choose_temperature
from experiments.compare.view_sets import Rows, ViewSet, load_view_sets

# Whole comparisons, if small ones.
pytestmark = pytest.mark.slow

LOSSES = ("pmrl", "area", "infonce_pairs")
TRAININGS = len(LOSSES) * 3  # 2 temperatures, and another seed at one of them


def _write_tumours(folder, num_rows=60, **changes):
  """A tiny file in the form of tcga_brca348.npz."""
  rng = np.random.default_rng(0)
  clusters = np.arange(num_rows) % 3
  rows = rng.normal(size=(num_rows, 6)) + 2 * np.eye(3, 6)[clusters]
  arrays = {
    "expression": (rows @ rng.normal(size=(6, 9))).astype(np.float32),
    "methylation": (rows @ rng.normal(size=(6, 8))).astype(np.float32),
    "mirna": (rows @ rng.normal(size=(6, 7))).astype(np.float32),
    "cluster": clusters.astype(np.int8),
    "is_test": np.arange(num_rows) % 4 == 0,
  }
  path = folder / "tcga_brca" / "tcga_brca348.npz"
  path.parent.mkdir(exist_ok=True)
  arrays |= changes
  np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
  return path


def _arguments(data, workdir, *more):
  return (
    "--quick",
    "--steps=3",
    "--seeds=2",
    "--sets=tcga_brca",
    f"--losses={','.join(LOSSES)}",
    f"--data={data}",
    f"--workdir={workdir}",
    *more,
  )


def _results(workdir):
  return json.loads((workdir / "results.json").read_text())


def _numbers(results):
  """What a training gave, by which training it was; no clock, no place."""
  fields = (*Key._fields, "validation", "test", "skipped_steps")
  return {
    Key(*(run[field] for field in Key._fields)): {
      field: run[field] for field in fields if field in run
    }
    for run in results["runs"]
  }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  _write_tumours(folder)
  return folder


@pytest.fixture(scope="module")
def done(quick_programs):
  """The trainings that are done, as they are done; compiles only once."""
  trainings = []
  compiled = {}

  def build_trainer(view_set, contenders, steps):
    which = (view_set.fingerprint(), *contenders, steps)
    if which not in compiled:
      compiled[which] = trainer.build_trainer(view_set, contenders, steps)

    def train(*arguments):
      trainings.append(arguments)
      return compiled[which](*arguments)

    return train

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(study, "build_trainer", build_trainer)
    yield trainings


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory, done):
  """The folder of a comparison that nothing disturbed; do not change it."""
  workdir = tmp_path_factory.mktemp("finished") / "compare"
  plan = Plan(steps=3, seeds=2, quick=True)
  contenders = {name: CONTENDERS[name] for name in LOSSES}
  view_sets = load_view_sets(["tcga_brca"], data)
  program.compare(plan, contenders, view_sets, workdir)
  return workdir


@pytest.fixture
def trained(done):
  """The trainings that are done in a test."""
  done.clear()
  return done


def test_leaves_results_tables_and_figures(finished):
  names = {path.name for path in finished.iterdir()}
  assert names == {".lock", "results.json", "tables.txt", "tcga_brca.png"}
  assert (finished / "tcga_brca.png").read_bytes().startswith(b"\x89PNG")
  results = _results(finished)
  assert len(results["runs"]) == TRAININGS
  [session] = results["sessions"]
  assert session["versions"]["jax"] and session["cpu_cores"]
  assert "git_revision" in session and session["command"]
  assert results["settings"]["steps"] == 3


def test_only_the_chosen_temperature_is_measured_on_test_rows(finished):
  results = _results(finished)
  for loss in LOSSES:
    runs = [run for run in results["runs"] if run["loss"] == loss]
    first = {r["temperature"]: r for r in runs if r["seed"] == 0}
    assert sorted(first) == list(CONTENDERS[loss].temperatures[1:-1])
    best = max(first, key=lambda t: first[t]["validation"]["mean_R@1"])
    measured = {(r["temperature"], r["seed"]) for r in runs if "test" in r}
    assert measured == {(best, 0), (best, 1)}
    assert results["tables"]["tcga_brca"][loss]["temperature"] == best


def test_validation_chooses_and_test_does_not():
  def run(validation, test):
    return {
      "validation": {"mean_R@1": validation},
      "test": {"mean_R@1": test},
    }

  runs = {
    Key("s", "a", 0.1, 0): run(0.5, 0.9),
    Key("s", "a", 0.2, 0): run(0.6, 0.1),
    Key("s", "a", 0.2, 1): run(0.0, 0.0),  # other seeds do not choose
    Key("s", "b", 0.4, 0): run(0.9, 0.9),
  }
  assert choose_temperature(runs, "s", "a", (0.1, 0.2)) == 0.2
  assert choose_temperature(runs, "s", "a", (0.1, 0.2, 0.4)) is None


def test_a_finished_comparison_trains_nothing_again(
  finished, data, call, trained, tmp_path
):
  workdir = tmp_path / "compare"
  shutil.copytree(finished, workdir)
  ended = call(program.main, *_arguments(data, workdir))
  assert ended.code == 0, ended.err
  assert trained == []
  assert _numbers(_results(workdir)) == _numbers(_results(finished))
  assert _results(workdir)["tables"] == _results(finished)["tables"]


@pytest.mark.parametrize(
  "num_kept,number",
  [(1, signal.SIGINT), (2, signal.SIGTERM), (5, signal.SIGINT)],
)
def test_a_stopped_comparison_goes_on_and_ends_the_same(
  finished, data, call, trained, tmp_path, monkeypatch, num_kept, number
):
  workdir = tmp_path / "compare"

  def stop_after(*arguments):
    if len(trained) > num_kept:
      signal.raise_signal(number)
    return measures.measure_retrieval(*arguments)

  with monkeypatch.context() as patch:
    patch.setattr(study, "measure_retrieval", stop_after)
    ended = call(program.main, *_arguments(data, workdir))
  assert ended.code == 128 + number
  assert ended.err.count("\n") == 1
  assert f"{num_kept} trainings are kept" in ended.err
  assert len(_results(workdir)["runs"]) == num_kept
  assert "not finished" in (workdir / "tables.txt").read_text()

  trained.clear()
  ended = call(program.main, *_arguments(data, workdir))
  assert ended.code == 0, ended.err
  assert len(trained) == TRAININGS - num_kept
  assert _numbers(_results(workdir)) == _numbers(_results(finished))
  assert not (workdir / "pending").exists()
  assert len(_results(workdir)["sessions"]) == 2


def test_embeddings_that_were_lost_are_made_again(
  finished, data, call, trained, tmp_path, monkeypatch
):
  workdir = tmp_path / "compare"

  def stop(*arguments):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(study, "measure_test", stop)
    assert call(program.main, *_arguments(data, workdir)).code == 130
  for path in (workdir / "pending").iterdir():
    path.write_bytes(path.read_bytes()[:50])
  assert call(program.main, *_arguments(data, workdir)).code == 0
  assert len(trained) == TRAININGS + 1
  assert _numbers(_results(workdir)) == _numbers(_results(finished))


def test_sigint_leaves_what_is_done(start, data, tmp_path):
  workdir = tmp_path / "compare"
  arguments = _arguments(data, workdir, "--steps=100000")
  process = start("compare", *arguments, "--losses=infonce_pairs")
  try:
    while process.poll() is None and not (workdir / "results.json").exists():
      time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
  finally:
    process.kill()
  assert process.returncode == 130, err
  assert err.count("\n") == 1 and "goes on from there" in err
  assert _results(workdir)["runs"] == []
  assert "not finished" in (workdir / "tables.txt").read_text()


def test_more_seeds_join_a_finished_comparison(
  finished, data, call, trained, tmp_path
):
  workdir = tmp_path / "compare"
  shutil.copytree(finished, workdir)
  arguments = _arguments(data, workdir, "--seeds=3")
  assert call(program.main, *arguments).code == 0
  assert [seed for _, _, seed in trained] == [2] * len(LOSSES)
  assert len(_results(workdir)["runs"]) == TRAININGS + len(LOSSES)
  for row in _results(workdir)["tables"]["tcga_brca"].values():
    assert row["seeds"] == [0, 1, 2]


def test_printed_numbers_are_those_of_the_results(finished):
  text = (finished / "tables.txt").read_text()
  lines = text.splitlines()
  assert max(map(len, lines)) <= 100
  assert any(line.startswith("QUICK") for line in lines)
  table = _results(finished)["tables"]["tcga_brca"]
  assert set(table) == set(LOSSES)
  for loss, row in table.items():
    [line] = [line for line in lines if re.match(rf"{loss} +0?\.?\d", line)]
    cells = line.split()[1:]
    for column, printed in zip(tables.COLUMNS, cells):
      mean, half_width = printed.rstrip("*=").split("±")
      assert float(mean) == pytest.approx(row[column.key]["mean"], abs=6e-4)
      assert float(half_width) == pytest.approx(
        row[column.key]["half_width"], abs=6e-4
      )
      assert printed.endswith("*") == (row[column.key]["mark"] == "best")
      assert printed.endswith("=") == (row[column.key]["mark"] == "level")
    assert float(cells[-2]) == pytest.approx(
      row["seconds_per_step"] * 1e3, abs=0.06
    )
    assert float(cells[-1].rstrip("^")) == row["temperature"]


def test_means_are_those_of_the_trainings(finished):
  results = _results(finished)
  for loss, row in results["tables"]["tcga_brca"].items():
    runs = [r for r in results["runs"] if r["loss"] == loss and "test" in r]
    for column in tables.COLUMNS:
      values = [run["test"][column.key] for run in runs]
      assert row[column.key]["mean"] == pytest.approx(np.mean(values))


def test_mean_and_worst_are_over_all_directions():
  eye = np.eye(4, dtype=np.float32)
  moved = eye[[1, 0, 2, 3]]  # finds its own instance in 2 of 4 cases
  embeddings = np.stack([eye, eye, moved], axis=1)
  rows = Rows({name: eye for name in "abc"}, np.arange(4, dtype=np.int32))
  found = measures.measure_retrieval(embeddings, rows)
  assert found["R@1"]["a->b"] == 1 and found["R@1"]["a->c"] == 0.5
  assert found["mean_R@1"] == pytest.approx((2 * 1 + 4 * 0.5) / 6)
  assert found["worst_R@1"] == 0.5
  assert found["flipped_share"] == 0
  flipped = embeddings * np.array([1, 1, -1], np.float32)[None, :, None]
  found = measures.measure_retrieval(flipped, rows)
  # 2 of 3 pairs hold the flipped one, whose cosine is -1 in 2 of 4 instances.
  assert found["flipped_share"] == pytest.approx(2 / 3 * 0.5)


def test_interval_is_that_of_student():
  values = [0.91, 0.95, 0.93]
  mean, half_width = measures.interval(values)
  assert mean == pytest.approx(0.93)
  # By hand: t of 2 degrees of freedom is 4.3027, the deviation 0.02.
  assert half_width == pytest.approx(4.3027 * 0.02 / math.sqrt(3), rel=1e-4)
  low, high = stats.t.interval(0.95, 2, mean, stats.sem(values))
  assert (mean - half_width, mean + half_width) == pytest.approx((low, high))
  assert measures.interval([0.5]) == (0.5, None)


def test_level_is_judged_seed_by_seed():
  best = {0: 0.90, 1: 0.80, 2: 0.70}
  behind = {seed: value - 0.01 for seed, value in best.items()}
  # Seeds differ by more than the losses, and yet one always loses.
  assert not measures.level_with(behind, best)
  assert measures.level_with({0: 0.88, 1: 0.81, 2: 0.69}, best)
  assert measures.level_with(best, best)
  assert not measures.level_with({0: 0.8}, {0: 0.9})
  assert not measures.level_with({0: 0.9}, {1: 0.9})


def _rows_of(**values):
  """Rows of a table from {loss: (share found, share flipped)} per seed."""
  runs = {}
  for loss, seeds in values.items():
    for seed, (found, flipped) in enumerate(seeds):
      test = {column.key: found for column in tables.COLUMNS}
      runs[Key("s", loss, 0.1, seed)] = {
        "seconds_per_step": 0.01,
        "skipped_steps": 0,
        "validation": {"mean_R@1": 0.5},
        "test": test | {"flipped_share": flipped},
      }
  contenders = {
    loss: Contender("", CONTENDERS["pmrl"].loss, (0.1,)) for loss in values
  }
  view = np.zeros((8, 2), np.float32)
  rows = Rows({"a": view, "b": view}, np.zeros(8, np.int32))
  view_set = ViewSet("a set", rows, rows, rows)
  plan = Plan(steps=1, seeds=3, quick=False)
  return tables.build_rows(runs, plan, "s", view_set, contenders)


def test_most_found_and_least_flipped_is_best():
  rows = _rows_of(
    good=[(0.9, 0.0), (0.8, 0.1), (0.7, 0.0)],
    same=[(0.88, 0.3), (0.81, 0.4), (0.69, 0.3)],
    bad=[(0.5, 0.9), (0.4, 0.9), (0.3, 0.9)],
  )
  marks = {row.loss: row.cells["mean_R@1"].mark for row in rows}
  assert marks == {"good": "best", "same": "level", "bad": None}
  assert [row.cells["flipped_share"].mark for row in rows] == [
    "best",
    None,
    None,
  ]


def test_area_is_a_dash_where_there_are_six_modalities():
  plan = Plan(steps=1, seeds=2, quick=True)
  view_set = load_view_sets(["mfeat"], None)["mfeat"]
  contenders = {name: CONTENDERS[name] for name in ("area", "pmrl")}
  rows = tables.build_rows({}, plan, "mfeat", view_set, contenders)
  text = tables.format_table(rows, plan, "mfeat", view_set, contenders, [])
  [line] = [line for line in text.splitlines() if line.startswith("area")]
  assert line.split()[1:] == ["-"] * (len(tables.COLUMNS) + 2)
  assert "area is for 3 modalities only" in text
  assert not rows[0].applies and rows[1].applies


def test_sets_that_ship_are_cut_as_described():
  sets = load_view_sets(["digits", "mfeat"], None)
  shapes = {name: x.shape for name, x in sets["digits"].test.views.items()}
  assert shapes == {
    "top": (1797, 40),
    "bottom": (1797, 40),
    "middle": (1797, 32),
  }
  for view_set in sets.values():
    train, validation = (
      {x.tobytes() for x in next(iter(rows.views.values()))}
      for rows in (view_set.train, view_set.validation)
    )
    # Some thirds of digits are equal, but no row was copied.
    assert len(train & validation) <= 2
  assert len(sets["mfeat"].train.labels) == 1400 - 280
  assert len(sets["digits"].train.labels) == 3823 - 400


def test_no_batch_holds_an_instance_twice():
  batches = trainer._batches(num_rows=300, steps=7, seed=1)
  assert batches.shape == (7, trainer.BATCH_SIZE)
  assert all(len(set(batch)) == len(batch) for batch in batches.tolist())
  # Two batches of an epoch have nothing in common.
  assert not set(batches[0]) & set(batches[1])
  assert trainer._batches(num_rows=10, steps=2, seed=0).shape == (2, 10)


def test_every_grid_has_as_many_temperatures():
  assert len({len(c.temperatures) for c in CONTENDERS.values()}) == 1
  for contender in CONTENDERS.values():
    assert sorted(contender.temperatures) == list(contender.temperatures)


MISTAKES = {
  "unknown set": (["--sets=cifar"], ["digits, mfeat", "got cifar"]),
  "unknown loss": (["--losses=pmlr"], ["--losses", "pmrl", "got pmlr"]),
  "a loss twice": (["--losses=pmrl,pmrl"], ["different", "got pmrl, pmrl"]),
  "no seed": (["--seeds=0"], ["--seeds=0", "positive"]),
  "no folder of data": (
    ["--sets=emoji", "--data="],
    ["emoji does not ship", "--data=DIR", "emoji/emoji32.npz"],
  ),
  "no such file": (["--sets=emoji"], ["no file", "emoji32.npz"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_in_flags(case, call, check_mistake, data, tmp_path):
  flags, fragments = MISTAKES[case]
  workdir = tmp_path / "compare"
  ended = call(program.main, *_arguments(data, workdir, *flags))
  check_mistake(ended, *fragments)
  assert not workdir.exists()


DATA_MISTAKES = {
  "no views": ({"mirna": None}, ["has no arrays ['mirna']"]),
  "lengths": ({"mirna": np.zeros((3, 2))}, ["same number of rows"]),
  "not finite": ({"mirna": np.full((60, 2), np.nan)}, ["cannot be used"]),
  "texts": ({"mirna": np.array([["a"]] * 60)}, ["cannot be used"]),
  "which rows": ({"is_test": np.zeros(5, bool)}, ["one is_test per row"]),
  "no test rows": ({"is_test": np.zeros(60, bool)}, ["too few rows"]),
  "one class": ({"cluster": np.zeros(60, int)}, ["one class only"]),
}


@pytest.mark.parametrize("case", DATA_MISTAKES)
def test_mistakes_in_data(case, call, check_mistake, tmp_path):
  changes, fragments = DATA_MISTAKES[case]
  path = _write_tumours(tmp_path, **changes)
  ended = call(program.main, *_arguments(tmp_path, tmp_path / "compare"))
  check_mistake(ended, str(path), *fragments)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"text"])
def test_a_file_that_is_something_else(content, call, check_mistake, tmp_path):
  path = _write_tumours(tmp_path)
  path.write_bytes(content)
  ended = call(program.main, *_arguments(tmp_path, tmp_path / "compare"))
  check_mistake(ended, str(path), "no .npz file")


def test_other_settings_do_not_mix(
  finished, call, check_mistake, data, tmp_path
):
  workdir = tmp_path / "compare"
  shutil.copytree(finished, workdir)
  ended = call(program.main, *_arguments(data, workdir, "--steps=4"))
  check_mistake(ended, "other settings", "steps: 3 there, 4 now")
  _write_tumours(tmp_path, num_rows=64)
  ended = call(program.main, *_arguments(tmp_path, workdir))
  check_mistake(ended, "other settings", "data.tcga_brca")
  assert _results(workdir) == _results(finished)
  results = _results(workdir)
  results["settings"]["losses"]["pmrl on tcga_brca"] = "another"
  (workdir / "results.json").write_text(json.dumps(results))
  ended = call(program.main, *_arguments(data, workdir))
  check_mistake(ended, "other settings", "pmrl on tcga_brca: 'another' there")


def test_losses_are_told_apart_by_what_they_compute():
  def of(contender, num_modalities=3):
    return trainer.fingerprint(contender, num_modalities, 20)

  prints = {name: of(CONTENDERS[name]) for name in CONTENDERS}
  assert len(set(prints.values())) == len(prints)
  assert of(CONTENDERS["pmrl"]) == prints["pmrl"]
  twice = CONTENDERS["pmrl"]._replace(
    loss=lambda *arguments: 2 * CONTENDERS["pmrl"].loss(*arguments)
  )
  assert of(twice) != prints["pmrl"]


def test_a_folder_of_something_else_is_left_alone(
  call, check_mistake, data, tmp_path
):
  (tmp_path / "thesis.tex").write_text("")
  ended = call(program.main, *_arguments(data, tmp_path))
  check_mistake(ended, "something else", "thesis.tex")
  (tmp_path / "results.json").write_text('{"runs": 3}')
  ended = call(program.main, *_arguments(data, tmp_path))
  check_mistake(ended, "results.json", "damaged")
  ended = call(program.main, *_arguments(data, tmp_path / "thesis.tex"))
  check_mistake(ended, "thesis.tex is a file")


def test_emoji_variants_stay_together(tmp_path):
  rng = np.random.default_rng(0)
  num = 80
  families = np.arange(num) // 4
  images = {
    f"img_{vendor}": rng.integers(0, 256, (num, 32, 32, 3), np.uint8)
    for vendor in ("noto", "twemoji", "openmoji")
  }
  (tmp_path / "emoji").mkdir()
  np.savez(
    tmp_path / "emoji" / "emoji32.npz",
    **images,
    name_en=np.array([f"face {i % 5}" for i in range(num)]),
    kw_en=np.array(["smile | face"] * num),
    group=families,  # so that the labels tell the family
    family=families,
  )
  view_set = load_view_sets(["emoji"], tmp_path)["emoji"]
  assert view_set.modalities == ("noto", "twemoji", "openmoji", "words")
  parts = [set(rows.labels.tolist()) for rows in view_set[1:]]
  assert sum(map(len, parts)) == len(set().union(*parts)) == num // 4
  assert view_set.train.views["noto"].shape[1] == 16 * 16 * 3
