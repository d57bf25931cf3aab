"""`python -m experiments.convert`; see program.py."""

from experiments.convert import program

if __name__ == "__main__":
  program.start()
