"""Prepares data: looks through manifests, and builds data sets of them."""
