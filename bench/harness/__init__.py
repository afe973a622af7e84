"""The measuring harness behind bench/run."""
