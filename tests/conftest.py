"""Strict settings for every test: 8 CPU devices, no silent broadcasting."""

import os

# Set in the environment, not through jax.config, so that the processes that
# tests start run on the same platform.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
