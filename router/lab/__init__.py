"""What works offline: simulate, replay, plan, calibrate, bench; one module a command.

Beneath them: `simulation` (runs, traces, sizing), `calibration` (probes of engines), `packing`
(problems and other solvers for the planner's bench), `reports` and `pictures`. Nothing live imports
this.
"""
