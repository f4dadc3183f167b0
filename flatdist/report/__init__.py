"""The page of a sweep: answers first, the paper's figures as SVG that answers to pointer and keyboard, every cell."""

from flatdist.report.material import Settings
from flatdist.report.page import write_report

__all__ = ["Settings", "write_report"]
