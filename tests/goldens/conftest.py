"""The programs that make golden values need libraries that tests do not."""

collect_ignore_glob = ["make_*.py"]
