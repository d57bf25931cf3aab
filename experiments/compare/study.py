"""All trainings of a comparison: temperatures first, then the other seeds."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import tqdm

from experiments.compare import trainer as trainers
from experiments.compare.contenders import Contender
from experiments.compare.measures import measure_retrieval, measure_test
from experiments.compare.store import Key, Store
from experiments.compare.trainer import Train, Trained, build_trainer
from experiments.compare.view_sets import ViewSet

Runs = Mapping[Key, Mapping[str, Any]]


class Plan(NamedTuple):
  """How much is done."""

  steps: int  # of every training
  seeds: int  # 0, 1, ...; the first one chooses the temperature
  quick: bool  # leaves out the ends of every grid

  def grid(self, contender: Contender) -> tuple[float, ...]:
    """The temperatures that are tried, ascending."""
    temperatures = contender.temperatures
    return temperatures[1:-1] if self.quick else temperatures

  def num_trainings(self, contender: Contender) -> int:
    """How many trainings a loss takes on one data set."""
    return len(self.grid(contender)) + self.seeds - 1


def settings(
  plan: Plan,
  view_sets: Mapping[str, ViewSet],
  contenders: Mapping[str, Contender],
) -> dict[str, Any]:
  """What trainings must have in common to be compared.

  Args:
    plan: How much is done.
    view_sets: The data.
    contenders: The losses.

  Returns:
    A dictionary that `json.dumps` takes.
  """
  return {
    "steps": plan.steps,
    "batch_size": trainers.BATCH_SIZE,
    "dim": trainers.DIM,
    "encoder": trainers.ENCODER,
    "optimizer": trainers.OPTIMIZER,
    "warmup_share": trainers.WARMUP_SHARE,
    "data": {
      name: view_set.fingerprint() for name, view_set in view_sets.items()
    },
    "losses": {
      f"{loss} on {name}": trainers.fingerprint(
        contender, len(view_set.modalities), len(view_set.train.labels)
      )
      for name, view_set in view_sets.items()
      for loss, contender in contenders.items()
      if contender.fits(len(view_set.modalities))
    },
  }


def choose_temperature(
  runs: Runs, view_set: str, loss: str, grid: tuple[float, ...]
) -> float | None:
  """The temperature with the best mean R@1 on the validation rows.

  Args:
    runs: The finished trainings.
    view_set: The name of a data set.
    loss: The name of a loss.
    grid: The temperatures, ascending; of equal ones the lower one is chosen.

  Returns:
    The temperature, or None while the grid is not finished.
  """
  found = {t: runs.get(Key(view_set, loss, t, 0)) for t in grid}
  scores = {t: run["validation"]["mean_R@1"] for t, run in found.items() if run}
  if len(scores) < len(grid):
    return None
  return max(grid, key=scores.__getitem__)


def run_study(
  store: Store,
  plan: Plan,
  view_sets: Mapping[str, ViewSet],
  contenders: Mapping[str, Contender],
  progress: tqdm.tqdm,
) -> Iterator[tuple[str, str]]:
  """Does what is still to be done, a loss at a time.

  Args:
    store: Where finished trainings are, and go.
    plan: How much is done.
    view_sets: The data by name.
    contenders: The losses by name.
    progress: Counts modalities of trainings, for that is what they cost.

  Yields:
    The data set and the loss that have just been finished.
  """
  for set_name, view_set in view_sets.items():
    num_modalities = len(view_set.modalities)
    fitting = {
      name: contender
      for name, contender in contenders.items()
      if contender.fits(num_modalities)
    }
    trainings = _Trainings(store, plan, set_name, view_set, fitting, progress)
    for loss, contender in fitting.items():
      grid = plan.grid(contender)
      for temperature in grid:
        trainings.train(Key(set_name, loss, temperature, 0))
      chosen = choose_temperature(store.runs, set_name, loss, grid)
      if chosen is None:  # never: the grid has just been finished
        raise RuntimeError(f"the grid of {loss} on {set_name} has a gap")
      for seed in range(plan.seeds):
        trainings.train(Key(set_name, loss, chosen, seed))
        trainings.measure(Key(set_name, loss, chosen, seed))
      for temperature in grid:
        store.drop_embeddings(Key(set_name, loss, temperature, 0))
      yield set_name, loss


class _Trainings:
  """The trainings of one data set; compiles at the first that is missing."""

  def __init__(
    self,
    store: Store,
    plan: Plan,
    set_name: str,
    view_set: ViewSet,
    contenders: Mapping[str, Contender],
    progress: tqdm.tqdm,
  ):
    self._store = store
    self._plan = plan
    self._name = set_name
    self._view_set = view_set
    self._contenders = contenders
    self._progress = progress
    self._train: Train | None = None

  def train(self, key: Key) -> None:
    """Trains, unless that has been done; the test rows are not looked at."""
    if key in self._store.runs:
      return
    trained = self._run(key)
    self._store.keep_embeddings(key, trained.embeddings)
    self._store.add(
      key,
      {
        "seconds_per_step": trained.seconds_per_step,
        "skipped_steps": trained.skipped_steps,
        "validation": measure_retrieval(
          trained.embeddings["validation"], self._view_set.validation
        ),
      },
    )
    self._progress.update(len(self._view_set.modalities))

  def measure(self, key: Key) -> None:
    """Measures the test rows of a training, unless that has been done."""
    run = dict(self._store.runs[key])
    if "test" in run:
      return
    embeddings = self._store.kept_embeddings(key)
    if embeddings is None:  # removed by hand, or damaged: once more
      embeddings = self._run(key).embeddings
    run["test"] = measure_test(
      embeddings, self._view_set.train, self._view_set.test
    )
    self._store.add(key, run)
    self._store.drop_embeddings(key)

  def _run(self, key: Key) -> Trained:
    if self._train is None:
      self._progress.set_description(f"{self._name}, compiling")
      self._train = build_trainer(
        self._view_set, self._contenders, self._plan.steps
      )
    else:
      self._progress.set_description(f"{self._name}, {key.loss}")
    return self._train(key.loss, key.temperature, key.seed)
