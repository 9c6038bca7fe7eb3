"""Mixed-integer programs, in Pyomo, solved by HiGHS: the only package that knows either.

`packing` plans a window over the workers. `engine` is the whole problem of one engine, a ground
truth for tiny cases; `search` finds the same optimum faster, without a solver. Import `packing` and
`engine` late: Pyomo and HiGHS cost a quarter of a second. Importing this package loads neither.
"""
