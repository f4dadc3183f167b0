"""``flatdist report``: a sweep's figures, and one HTML page of everything that is known of it.

Rows are gathered once (:mod:`flatdist.report.material`); every section is a module with a function ``build`` from them
to what its template shows, and a template of its name in ``templates/sections``; :mod:`flatdist.report.page` puts them
together. Needs the extra ``report``: Altair writes the charts, Vega draws them, Jinja fills in the templates.
"""

from __future__ import annotations

from flatdist.report.writing import write_report

__all__ = ["write_report"]
