"""What a demonstration leaves behind for people: its reports and, last of all, its result, which says that it is finished."""

from __future__ import annotations

import json
from pathlib import Path

from ...durable import replace_file
from .document import document
from .play import DemoResult
from .report import render, report_data

__all__ = ["keep"]


def keep(result: DemoResult, out: Path) -> Path:
    """Write the operator's report, every site's report into its own folder, and the result; return the operator's."""
    out = out.absolute()
    report = out / "report.html"
    for site, config in result.founded.site_configs.items():
        html = render(report_data(result, for_site=site))
        replace_file(config.parent / "report.html", html.encode(), step="demo.report")
    replace_file(report, render(report_data(result)).encode(), step="demo.report")
    kept = json.dumps(document(result, report), indent=1).encode()
    replace_file(out / "result.json", kept, step="demo.result")
    return report
