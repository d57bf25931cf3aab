"""The largest batch per device that fits, by compiling."""

from collections.abc import Callable

from experiments.plan.compilation import Plan


def largest(
  compile_step: Callable[[int], Plan],
  *,
  start: int,
  most: int,
  refinements: int = 0,
) -> list[Plan]:
  """Compiles ever larger batches until one does not fit.

  Args:
    compile_step: Compiles for a batch per device.
    start: The first one. If it does not fit, smaller ones are tried.
    most: The largest one.
    refinements: How often the gap between what fits and what does not is
      halved, after powers of two.

  Returns:
    All that was compiled, by batch.
  """
  done: dict[int, Plan] = {}

  def fits(batch: int) -> bool:
    done[batch] = compile_step(batch)
    return done[batch].fits is not False

  low, high = 0, 2 * most
  batch = min(start, most)
  if fits(batch):
    low = batch
    while low < most:
      batch = min(2 * low, most)
      if not fits(batch):
        high = batch
        break
      low = batch
  else:
    while batch > 1 and not low:
      high, batch = batch, batch // 2
      low = batch if fits(batch) else 0
  for _ in range(refinements if low and high <= most else 0):
    middle = (low + high) // 2
    if middle == low:
      break
    low, high = (middle, high) if fits(middle) else (low, middle)
  return [done[batch] for batch in sorted(done)]


def best(plans: list[Plan]) -> Plan | None:
  """The largest that fits; None if none does."""
  fitting = [plan for plan in plans if plan.fits is not False]
  return max(fitting, key=lambda plan: plan.batch_per_device, default=None)
