"""The flag --config of the programs that take one.

Here, not in each of them: a flag has one definition in a process.
"""

from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "The experiment: a Python file with a get_config().",
  lock_config=True,
)
