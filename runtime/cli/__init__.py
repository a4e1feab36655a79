"""The command line: `counterseal GROUP COMMAND`, one file per group.

What every command keeps:

- A readable summary on standard output, or with ``--json`` exactly one JSON document there and nothing else. Progress,
  warnings and logging go to standard error.
- Exit codes: 0 done; 1 refused, or a check failed; 2 the command line itself was wrong; 3 the environment was: a file that
  cannot be read, a store that does not answer, a state folder that another process holds, a missing extra; 130 interrupted.
- A user's mistake ends in one message that says what was wrong, where, and what to do. A traceback is a bug of ours.
- Nothing secret is printed: no private key, passphrase, token or signed address, with any flag. What peers wrote is shown
  with control and bidirectional characters neutralised, and never as markup.
- Modules are imported when their command runs: `--help` loads none of the engine, and `audit` loads no torch and no boto3.

Not handled here: any decision. Each command reads its arguments, calls one function of the engine, and shows what it returned.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit the process."""
    from .application import run

    run()
