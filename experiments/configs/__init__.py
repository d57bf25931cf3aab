"""Configs: one file per experiment, each with a `get_config()`."""
