"""Options of the compiler: checked, and handed on."""

import jax
import jax.numpy as jnp
import optax
import pytest

from pmrl_jax import training


def test_known_options_are_returned():
  options = {"xla_cpu_prefer_vector_width": 512}
  assert training.check_compiler_options(options) == options
  assert training.check_compiler_options({}) is None


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"xla_cpu_nope": 1}, "xla_cpu_nope=1: No such compile option"),
    (
      {"xla_cpu_prefer_vector_width": "wide"},
      "xla_cpu_prefer_vector_width='wide': .* not a valid int32",
    ),
    (
      {"xla_cpu_prefer_vector_width": [1]},
      r"=\[1\]: list is none of bool, int",
    ),
  ],
)
def test_options_that_the_compiler_does_not_take_are_explained(
  options, message
):
  known = {"xla_cpu_prefer_vector_width": 256}
  with pytest.raises(ValueError, match=f"cpu does not take .*{message}"):
    training.check_compiler_options(known | options)


def test_the_step_is_compiled_with_its_options():
  """An option that the compiler refuses shows that it gets to see it."""

  def compile_step(options):
    step = training.make_train_step(
      lambda params, batch, key: (jnp.sum(params * batch), {}),
      optax.sgd(0.1),
      schedule=lambda step: 0.1,
      seed=0,
      max_skipped=1,
      mesh=training.make_mesh(),
      compiler_options=options,
    )
    state = training.create_state(jnp.ones(8), optax.sgd(0.1))
    step.lower(state, jnp.ones(8)).compile()

  compile_step({"xla_cpu_prefer_vector_width": 512})
  with pytest.raises(jax.errors.JaxRuntimeError, match="xla_cpu_nope"):
    compile_step({"xla_cpu_nope": 1})
