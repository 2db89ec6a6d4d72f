"""The verdict on attribution methods: which of them foretell what retraining shows, at what cost.

`read_bench` fills the contents in from the warehouse, `render_bench` lays them out as one HTML file
that needs no network and no script. A section of the page is a function of a cohort in
`page.SECTIONS`.
"""

from tda_dagster.report.bench.contents import BenchReport, Cohort
from tda_dagster.report.bench.page import render_bench
from tda_dagster.report.bench.reading import read_bench

__all__ = ["BenchReport", "Cohort", "read_bench", "render_bench"]
