"""`python -m counterseal.runtime.cli`."""

from __future__ import annotations

from . import main

main()
