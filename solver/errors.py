"""Errors of the solver.

SolverError
├── ProblemError        a packing problem or cost model that makes no sense; names the field
├── InfeasibleProblem   no plan exists; names a request where one is to blame
├── NoPlanInTime        none was found by the deadline; there may be one
└── InvalidPlan         a plan broke a constraint or misreported its value: a defect, never input
"""


class SolverError(Exception):
    """Base of everything the solver raises."""


class ProblemError(SolverError):
    """The problem's data is malformed."""


class InfeasibleProblem(SolverError):
    """No assignment satisfies the constraints.

    Attributes:
        request: index of a request that cannot be placed, or None if only the set as a whole fails.
    """

    def __init__(self, message: str, request: int | None = None) -> None:
        super().__init__(message)
        self.request = request


class NoPlanInTime(SolverError):
    """No plan was found by the deadline, and none was ruled out."""


class InvalidPlan(SolverError):
    """A plan failed the independent check of `solver.packing.check`."""
