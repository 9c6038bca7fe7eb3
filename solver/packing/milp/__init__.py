"""The packing problem as a mixed-integer program, in Pyomo, solved by HiGHS.

`model` is the formulation as one reads it; `compile` turns a Pyomo model into the matrix of its
rows once per shape, `template` patches that with each window's numbers, `highs` solves it. Decides
nothing by itself: `packing.pipeline` says when it pays, and takes a solution only if it is better.

Pyomo comes by `pyomo.core`, which is `pyomo.environ` without all its plug-ins: nothing here needs
any, and they take as long to load as the rest.
"""
