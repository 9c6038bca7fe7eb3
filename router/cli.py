"""The `makespan` command.

The solver's process is spawned, and therefore begins with this module, too: what commands need is
imported only where one is run.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run one command; exits with 2 on a bad setting, having named it, and with 130 at Ctrl-C."""
    try:
        from router.commands import run

        run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
