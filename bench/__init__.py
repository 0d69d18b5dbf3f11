"""Spear and other systems, measured in one run: `python -m bench --help`.

The modules, from the outside in:

* `cli` reads the command line. `table` holds the promises to check, `registry` the known systems.
* `run` measures the cases in rounds. Each measurement is a new process (`worker`), so no system
  inherits another one's heap, threads or garbage-collector state. A `guardian` kills processes that a
  measurement leaves behind.
* A worker loads one module of `peers` (or `ours`), which starts its server side as a child
  (`process`, `child`) and passes a call to `drive`, which has the measuring loops.
* `report`, `markdown` and `plots` show the results of `run` and measure nothing.
"""
