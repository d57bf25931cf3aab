"""Align any number of modalities in one space, in JAX.

The rooms are imported by name: `pmrl_jax.losses` (needs jax alone),
`pmrl_jax.encoders`, `pmrl_jax.data`, `pmrl_jax.training`,
`pmrl_jax.evaluation`.
"""

from pmrl_jax.version import __version__

__all__ = ["__version__"]
