"""What half an hour with faults counts as one, and what it has asked for."""

from __future__ import annotations

from tests.bench.soak import faults, thirds

ASKED = """\
19:45:22.024 ERROR router.agent.loop: the engine has broken down
  Traceback (most recent call last):
    File "router/agent/loop.py", line 73, in put
      raise InjectedBreakdown
  router.agent.faults.InjectedBreakdown
19:45:22.055 WARNING router.gateway.fleet.conditions: worker is down worker=agent-0
19:45:22.128 CRITICAL router.http.serving: stopped, as it could not go on
""".splitlines()
UNASKED = """\
19:45:55.481 ERROR router.solver_process: the solver failed; the plan found before is used
  Traceback (most recent call last):
    File "router/solver_process.py", line 222, in _better
  solver.errors.InvalidPlan: total_s is 2.0, the plan says 3.0
""".splitlines()


def test_engines_that_were_asked_to_break_down_are_no_fault() -> None:
    assert list(faults(ASKED * 3)) == []


def test_whatever_else_goes_wrong_is_told_whole() -> None:
    assert list(faults([*ASKED, *UNASKED, *ASKED])) == ["\n".join(UNASKED)]
    critical = "19:45:56.000 CRITICAL router.observe.logs: uncaught exception"
    assert list(faults([critical, *ASKED])) == [critical]


def test_a_process_that_stops_for_no_breakdown_is_told() -> None:
    (told,) = faults([*ASKED, ASKED[-1]])
    assert told == "2 processes could not go on, but 1 engines were to break down"


def test_thirds_have_all_of_it() -> None:
    assert thirds([1, 2, 3, 40, 50, 60, 7, 8, 9, 10]) == [2, 50, 8.5]
