"""The shell: ``fxprune COMMAND``, a file a group of commands; app.py lists them.

Exit codes: 0 success, 1 something was wrong with the model, the data or a file (one line on stderr), 2 wrong usage,
130 interrupted. Of ``diff`` as of diff(1): 0 the graphs are the same, 1 they differ, 2 trouble. A traceback appears
only with ``--debug``.
"""

from fxprune.cli.app import cli, main

__all__ = ["cli", "main"]
