"""Virtual nodes with real kernels: user-mode Linux processes on a private network.

For the tests, the demo and the benchmarks; no part of the driver. `lab.lab.Lab` is the entry
point from Python, `python -m lab` from a shell.
"""
