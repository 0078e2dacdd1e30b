"""One plain page for people: what the daemon is doing now, and where to look further."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from magd.web.metrics import running_operations

if TYPE_CHECKING:
    from collections.abc import Iterable

    from magd.actors.storage import Storage

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>magd</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
table {{ border-collapse: collapse; margin-bottom: 1.5rem; width: 100% }}
th, td {{ border-bottom: 1px solid #ccc; padding: .25rem .75rem .25rem 0; text-align: left }}
</style></head>
<body>
<h1>magd {version}</h1>
<p>
<a href="/readyz?verbose">readiness</a> · <a href="/healthz">health</a> · <a href="/metrics">metrics</a>
</p>
<p>
Up for {uptime:.0f} s. Memory for boxes: {used} of {budget} bytes taken, {waiting} calls wait.
</p>
<h2>Mags in use</h2>
{mags}
<h2>Operations under way</h2>
{operations}
</body>
</html>
"""


def status_page(storage: Storage, version: str) -> str:
    """The page as HTML."""
    status = storage.status()
    return _PAGE.format(
        version=escape(version),
        uptime=status.uptime_seconds,
        used=status.budget_used_bytes,
        budget=status.budget_bytes,
        waiting=status.budget_waiting,
        mags=_table(
            ("mag", "state", "waiting", "running", "writes", "reads", "reason", "warnings"),
            (
                (
                    mag.name,
                    mag.state,
                    mag.queue,
                    mag.running,
                    mag.writes,
                    mag.reads,
                    mag.reason,
                    "; ".join(mag.warnings),
                )
                for mag in status.mags
            ),
        ),
        operations=_table(
            ("operation", "kind", "resource", "cube files done", "of"),
            (
                (each.name, each.kind, each.resource, each.progress.files_done, each.progress.files_total)
                for each in running_operations(storage)
            ),
        ),
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    body = ["<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows]
    if not body:
        return "<p>None.</p>"
    return "<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>" + "".join(body) + "</table>"
