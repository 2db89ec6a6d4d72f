"""The data dictionary: what the tables hold, and how shares come from scores."""

from collections.abc import Iterable

from warehouse.tables import SQL_TYPES, TABLES, Column

SHARES = """\
Shares of a query under a method come from the scores of its training segments:

1. z = (score − median) / (1.4826 · MAD): how far a score stands out from the bulk of segments,
   most of which had no influence. (MAD: median absolute deviation. If it is 0, every z is 0.)
2. evidence = max(0, z − threshold_z).
3. Pure noise leaves evidence too: N segments of standard normal z leave N · null_excess on
   average. noise = min(1, N · null_excess / total evidence), and 1 without any evidence.
4. Scores know who shaped a query far better than by how much. The support of the method is the
   weight of its evidence that pays the least money wrongly, as retraining on coalitions of
   catalogues has shown on the bench (method_support; shares.support chooses another one). A method
   that was not measured has a support of 0. unattributed = 1 − support · (1 − noise).
5. A query is not attributed (unattributed = 1) if its scores are less reliable than min_reliability
   (the part of what tells them apart that is more than chance in the draws), or if the best segment
   stands out by less than min_prominence times as far as the best of N draws of normal noise would:
   z < min_prominence · √(2 ln N). Both are in v_query_reliability.
6. share = (1 − unattributed) · evidence / total evidence.
7. payout = share + unattributed · (part of the seconds that the model was trained on): what is paid
   when the unattributed part is paid pro rata. Payouts sum to one. The interval from payout_low to
   payout_high is payout ± spread · √(payout · (1 − payout) + interval_floor), cut to [0, 1]. On the
   bench it held 90 of 100 true shares. spread is in method_support.

Shares of tracks, artists, rightsholders and collections are sums of their segments' shares. With
the unattributed share they sum to one. They are parts of the evidence found, not of the music.

A piece that is longer than the model's window is cut into windows, and each is a query of its own.
The shares of the piece (v_piece_track_share, v_piece_rightsholder_share) are the means of its
windows' shares weighted by their seconds. A silent window is not attributed: all of it is
unattributed. An end that is shorter than dataset.min_seconds is no window, as in tracks."""


def data_dictionary() -> str:
    """All tables and columns with types, units and meanings, and the rule of shares: Markdown."""
    parts = ["# Data dictionary", "## Shares", SHARES]
    for table in TABLES:
        key = ", ".join(table.key) or "none"
        parts += [f"## {table.name}", f"{table.description} Key: {key}."]
        parts.append("\n".join(_dictionary_rows(table.columns)))
    return "\n\n".join(parts) + "\n"


def _dictionary_rows(columns: Iterable[Column]) -> Iterable[str]:
    yield "| column | type | unit | meaning |"
    yield "|---|---|---|---|"
    for column in columns:
        kind = SQL_TYPES[column.dtype] + (", may be null" if column.nullable else "")
        yield f"| {column.name} | {kind} | {column.unit} | {column.description} |"
