"""Checkpoints of the PyTorch world: state dicts to Flax parameters and back."""
