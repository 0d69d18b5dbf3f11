"""Spear beside its peers, measured in one run: `python -m bench --help`.

How a figure comes about, from the outside in:

* `cli` reads the command line; `table` holds the promises we check, `registry` the systems we know.
* `run` goes round the cases; each single measurement is a fresh process (`worker`), so no system
  inherits another's heap, threads or garbage-collector state, under a `guardian` that ends whatever
  it leaves behind.
* a worker loads one module of `peers` (or `ours`), which starts its server side as a child
  (`process`, `child`) and hands a call to `drive`, where all the measuring loops are.
* `report`, `markdown` and `plots` show what `run` collected and measure nothing.
"""
