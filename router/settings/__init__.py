"""Settings of every process: one frozen object a command, one file each.

In rising order: the file that ``--config`` or ``MAKESPAN_CONFIG`` names (one table a command),
``MAKESPAN_*`` variables, flags. A value that is unknown or wrong stops the process and names
itself. Begin with `commands`, which lists all commands and loads their settings; `base` has the
types.
"""
