"""The reference study: real compositions, rendered to audio on the user's own machine.

catalogue (what there is) -> excerpts (scores to notes) -> arrangement (notes to a performance)
-> synthesis (a performance to samples), tied together by study.
"""

from tda_dagster.corpus.reference.study import render_reference_study

__all__ = ["render_reference_study"]
