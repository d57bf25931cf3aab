"""See `program`."""

if __name__ == "__main__":
  # Processes that share the work import this file as well, and need no more.
  from experiments.prepare import program

  program.start()
