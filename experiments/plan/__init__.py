"""Plans a run: what its step needs on devices that need not be there."""
