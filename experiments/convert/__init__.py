"""Checkpoints of PyTorch become parameters to start from, and go back."""
