"""The best that one engine could do with all requests and lengths known: ground truth for tests.

`case` is the problem, `mip` the paper's mixed-integer program of it (arXiv:2502.15763, section IV)
in Pyomo, `search` an exact search that must agree with it. Small cases only: eight requests on
three slots. Nothing live imports this.
"""
