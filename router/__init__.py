"""Acts: gateway, agents, the wire between them, and the commands. Decisions are `solver`'s.

The rooms, top down; each sees those below it, and import-linter holds that:

- `cli`, `commands`, `up`, `processes`, `lab`: the command, its supervisors, and all that works
  offline (simulate, replay, plan, calibrate, bench);
- `gateway`: takes requests, plans windows, forwards, accounts; `agent`: runs beside one engine;
- `solver_process`: packing in a child process, for commands that plan; `children`: what supervisors
  start; `look`: colours and styles;
- `observe`: metrics, traces, logs; `http`: ASGI, bodies, errors, connections;
- `wire`: all that gateway and agent say to each other; `settings`: one file a command.

Begin with `gateway.app` or `agent.app`, the composition roots. The glossary is in the README here.
"""
