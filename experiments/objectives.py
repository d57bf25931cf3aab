"""Config -> objective, and which parameters it does not depend on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections
from jax.sharding import Mesh, PartitionSpec

from pmrl_jax import encoders, training
from pmrl_jax.losses import gradient_cache, pmrl_loss
from pmrl_jax.training.step import Objective

_ROUTES = ("gather", "ring", "compiler")


def build_objective(
  config: ml_collections.ConfigDict,
  model: nn.Module,
  mesh: Mesh | None = None,
) -> Objective:
  """The loss as a function of parameters, batch and key.

  Args:
    config: `loss` holds the keyword arguments of `pmrl_loss`; `matching`, for
      the published model, those of `training.make_matching_objective`, where
      -1 pools are as many as there are devices; `micro_batch_size` says how
      many instances are encoded at a time; `route` how the devices come to
      each other's embeddings, see `loss_of_devices`.
    model: The model.
    mesh: The devices, over which the batch is split; None: there is one.

  Returns:
    The objective.

  Raises:
    ValueError: If an option is out of range, or the model matches no texts.
    TypeError: If an option does not exist.
  """
  arguments, matching = dict(config.loss), matching_options(config, model)
  loss_of = loss_of_devices(config, mesh)
  if matching is not None:
    if matching.get("num_pools") == -1:
      matching["num_pools"] = 1 if mesh is None else mesh.size
    return training.make_matching_objective(
      model,
      loss=arguments,
      micro_batch_size=config.get("micro_batch_size"),
      spectral=loss_of,
      **matching,
    )

  def encode(params: Any, batch: Mapping[str, Any], key: jax.Array) -> Any:
    return model.apply(
      {"params": params},
      batch["inputs"],
      where=batch["where"],
      train=True,
      rngs={"dropout": key},
    )

  if config.get("micro_batch_size") is not None:
    encode = gradient_cache(encode, micro_batch_size=config.micro_batch_size)

  def objective(
    params: Any, batch: Mapping[str, Any], key: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    embeddings, where = encode(params, batch, key)
    result = loss_of(embeddings, where=where, ids=batch["ids"], **arguments)
    return result.loss, {
      "alignment": result.alignment,
      "instance": result.instance,
    }

  return objective


class _Terms(NamedTuple):
  """The part of `losses.PMRLLoss` that is the same on every device."""

  loss: jax.Array
  alignment: jax.Array
  instance: jax.Array


def loss_of_devices(
  config: ml_collections.ConfigDict, mesh: Mesh | None
) -> Callable[..., Any]:
  """`pmrl_loss`, for embeddings that are split over the devices.

  Args:
    config: `route` is "gather" (the default): each device decomposes its own
      instances and gets the directions of all; "ring": those travel, and no
      device ever holds those of the whole batch; or "compiler": it decides.
      The result is the same up to rounding. Compilers split no
      eigendecomposition, and have every device do those of the whole batch, so
      "compiler" is the default only where the others cannot be: where
      `matching.num_groups` is above 1.
    mesh: The devices.

  Returns:
    A function with the arguments of `pmrl_loss`.

  Raises:
    ValueError: If the route is unknown or does not fit the config.
  """
  in_groups = (config.get("matching") or {}).get("num_groups", 1) > 1
  route = config.get("route", "compiler" if in_groups else "gather")
  if route not in _ROUTES:
    raise ValueError(
      f"config.route must be one of {list(_ROUTES)}, got {route!r}"
    )
  if route == "compiler" or mesh is None or mesh.size == 1:
    return pmrl_loss
  if in_groups:
    raise ValueError(
      f"config.route = {route!r} compares the whole batch, and "
      "config.matching.num_groups = "
      f"{config.matching.num_groups} groups of it; set route to 'compiler' or "
      "num_groups to 1"
    )
  axes = mesh.axis_names

  def loss_of(
    embeddings: jax.Array, *, where: Any, ids: Any, **arguments: Any
  ) -> _Terms:
    def of_device(x: jax.Array, where: Any, ids: Any) -> _Terms:
      result = pmrl_loss(
        x,
        where=where,
        ids=ids,
        axis_name=axes,
        ring=route == "ring",
        **arguments,
      )
      return _Terms(result.loss, result.alignment, result.instance)

    return jax.shard_map(
      of_device,
      mesh=mesh,
      in_specs=PartitionSpec(axes),
      out_specs=PartitionSpec(),
    )(embeddings, where, ids)

  return loss_of


def matching_options(
  config: ml_collections.ConfigDict, model: nn.Module
) -> dict[str, Any] | None:
  """What `config.matching` says; None if the model matches no texts.

  Raises:
    ValueError: If the model and the config do not fit.
  """
  matching = config.get("matching")
  matches = isinstance(model, encoders.PMRLModel)
  if matches != (matching is not None):
    raise ValueError(
      "config.matching (tasks, matching_weight) goes with config.model.kind = "
      f"'pmrl', and only with it; got the kind "
      f"{config.model.get('kind', 'multimodal')!r} and "
      f"{'no ' if matching is None else ''}config.matching"
    )
  if matching is None:
    return None
  if not matching.get("tasks"):
    raise ValueError(
      'config.matching.tasks must name one task or more, as ("tva",), got '
      f"{matching.get('tasks')!r}"
    )
  return dict(matching)


def build_optimizer(
  config: ml_collections.ConfigDict, model: Any
) -> tuple[Any, Any]:
  """The optimizer and its schedule; see `training.make_optimizer`.

  Parameters of the published model that its objective does not depend on are
  left as they are, unless `config.optimizer.without_gradient` names others.
  """
  options = dict(config.optimizer)
  matching = matching_options(config, model)
  if matching is not None:
    if options.get("without_gradient") is None:
      options["without_gradient"] = without_gradient(model, **matching)
    # An encoder that no modality of the run uses is not in the model.
    absent = set(config.model.encoders) - set(model.encoders)
    options["learning_rates"] = [
      (pattern, rate)
      for pattern, rate in options.get("learning_rates", ())
      if not any(pattern.startswith(f"^encoders_{name}/") for name in absent)
    ]
  return training.make_optimizer(steps=config.steps, **options)


def without_gradient(
  model: Any,
  *,
  tasks: Sequence[Any],
  matching_weight: float = 0.1,
  pairwise_weight: float = 0.0,
  **others: Any,
) -> tuple[str, ...]:
  """What the objective of the published model does not depend on.

  Args:
    model: A `PMRLModel`.
    tasks: As for `training.make_matching_objective`, like what follows.
    matching_weight: With 0 nothing is matched.
    pairwise_weight: With 0 nothing but the choice of negatives, which has no
      gradient, uses joint features and the temperature.
    **others: What makes no difference.

  Returns:
    Patterns of the paths of parameters, each of which fits one or more.
  """
  del others
  wanted = [
    tuple(name for name in model.task(task) if name != model.caption)
    for task in tasks
  ]
  text = model.modalities[model.caption].encoder
  # Words are predicted in captioning only.
  patterns = [f"^encoders_{text}/predictions/"]
  # Heads of the towers' own, such as that of CLIP, are never used.
  patterns += [
    f"^encoders_{name}/head/"
    for name, module in model.encoders.items()
    if getattr(module, "head_width", 0)
  ]
  if not pairwise_weight:
    patterns.append("^temperature$")
  patterns += [
    f"^fused_heads_{'_'.join(names)}/"
    for names in model.fusions
    if not pairwise_weight or tuple(names) not in wanted
  ]
  patterns += [
    f"^adapters_{name}/"
    for name, modality in model.modalities.items()
    if modality.conditions
    and (not matching_weight or name not in set().union(*wanted))
  ]
  if not matching_weight:
    patterns.append("^matching_head/")
    if model.encoders[text].cross_attention:
      patterns.append(f"^encoders_{text}/blocks/cross_attention/")
  return tuple(patterns)
