"""What DVC compares between versions of a study: figures and curves, as small files.

What belongs here: choosing them from the warehouse and writing them, with nothing in them that
differs between two equal runs. `dvc metrics`, `dvc plots` and `dvc exp` show them.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from tda_dagster.attribution.methods import method_specs
from tda_dagster.workspace import Workspace
from warehouse.build import query

_DIGITS = 6

_FIGURES = """
SELECT evaluation, method, metric, detail, avg(value) AS value
FROM fct_evaluation LEFT JOIN dim_method USING (method_id)
WHERE evaluation <> 'training' AND metric NOT IN ('frechet_low', 'frechet_high', 'pieces')
    AND (method_id IS NULL OR (list_contains($2, method_id)
    AND (subject = $1 OR subject IN (SELECT query_id FROM dim_query WHERE cohort = $1))))
GROUP BY ALL ORDER BY ALL
"""
_TRAINING = """
SELECT CAST(substr(detail, 6) AS INTEGER) AS step,
    max(value) FILTER (WHERE metric = 'train_loss') AS train_loss,
    max(value) FILTER (WHERE metric = 'heldout_loss') AS heldout_loss
FROM fct_evaluation WHERE evaluation = 'training' GROUP BY ALL ORDER BY ALL
"""
_TRACKS = """
SELECT track_rank, sum(share) / any_value(pieces) AS share
FROM v_piece_track_share
    JOIN (SELECT DISTINCT piece_id, cohort FROM dim_query) USING (piece_id),
    (SELECT count(DISTINCT piece_id) AS pieces FROM dim_query WHERE cohort = $1)
WHERE cohort = $1 AND method_id = $2 AND track_rank <= 20
GROUP BY ALL ORDER BY ALL
"""
_RIGHTSHOLDERS = """
SELECT rightsholder, sum(share) / any_value(pieces) AS share
FROM v_piece_rightsholder_share
    JOIN (SELECT DISTINCT piece_id, cohort FROM dim_query) USING (piece_id),
    (SELECT count(DISTINCT piece_id) AS pieces FROM dim_query WHERE cohort = $1)
WHERE cohort = $1 AND method_id = $2
GROUP BY ALL ORDER BY ALL
"""


def write_figures(workspace: Workspace, cohort: str) -> None:
    """Write `data/metrics.json` and `data/plots/*.csv` of a cohort under the main job's methods.

    The metrics are means over queries (the windows of long pieces), by evaluation, method, metric
    and detail, and the losses at the end of the training. The curves are those of the training, and
    the mean shares of tracks by rank and of rightsholders under the first of the methods.
    """
    methods = [spec.method_id for spec in method_specs(workspace.settings)]
    training = query(workspace.database, _TRAINING)
    metrics: dict[str, Any] = {}
    for row in query(workspace.database, _FIGURES, [cohort, methods]).iter_rows(named=True):
        _put(metrics, [row[k] for k in ("evaluation", "method", "metric", "detail")], row["value"])
    for metric, value in training.drop("step").tail(1).to_dict(as_series=False).items():
        _put(metrics, ["training", metric, None], value[0] if value else None)
    folder = workspace.digests.parent
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    text = json.dumps(metrics, indent=2, sort_keys=True) + "\n"
    (folder / "metrics.json").write_text(text, encoding="utf-8")
    training.write_csv(folder / "plots" / "training.csv", float_precision=_DIGITS)
    for name, sql in (("tracks", _TRACKS), ("rightsholders", _RIGHTSHOLDERS)):
        rows = query(workspace.database, sql, [cohort, methods[0]])
        rows.write_csv(folder / "plots" / f"{name}.csv", float_precision=_DIGITS)


def _put(metrics: dict[str, Any], path: Sequence[str | None], value: float | None) -> None:
    """Place a figure at a path, of which empty parts are left out; nothing for no number.

    What a metric is in detail joins its name: the metric without detail may be there as well.
    """
    if value is None or not math.isfinite(value):
        return
    *groups, metric, detail = path
    for group in groups:
        if group:
            metrics = metrics.setdefault(group, {})
    name = " ".join(part for part in (metric, detail) if part)
    metrics[name] = float(f"{value:.{_DIGITS}g}")
