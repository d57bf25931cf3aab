"""Every loss with the same encoders, data, batches, steps and seeds.

`python -m experiments.compare` trains them, chooses each loss's temperature
on validation rows, measures held-out rows and prints one table per data set.
"""
