"""Filling the verdict page in from the warehouse."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tda_dagster.report.bench.contents import (
    READINGS,
    BenchReport,
    Cohort,
    Coverage,
    Difference,
    Lds,
    Method,
    Payout,
    Query,
    Reading,
    Reliability,
    Stability,
    entrants,
    named,
)
from tda_dagster.report.bench.wording import departure
from warehouse.build import query

_UP_TO_DATE = "(cohort, method_id) IN (SELECT (cohort, method_id) FROM fct_resample)"
"""Of what a present version held against retraining; earlier ones kept less of it."""


def read_bench(database: Path) -> BenchReport:
    """What the warehouse knows of the bench. Costs and the settings of the ground truth are in its
    `dim_artifact`; where that is empty they are unknown."""
    reader = _Reader(database)
    cohorts = reader.rows(f"SELECT DISTINCT cohort FROM v_bench WHERE {_UP_TO_DATE} ORDER BY 1")
    return BenchReport(tuple(reader.cohort(row["cohort"]) for row in cohorts))


class _Reader:
    """Asks the warehouse."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def rows(self, sql: str, *parameters: object) -> list[dict[str, Any]]:
        return query(self._database, sql, list(parameters)).to_dicts()

    def cohort(self, name: str) -> Cohort:
        (train,) = self.rows("SELECT count(*) AS tracks FROM dim_track WHERE split = 'train'")
        planted = self.rows(
            "SELECT r.version_kind, count(DISTINCT r.query_id) AS excerpts FROM v_version_recall r "
            "JOIN dim_segment g ON g.segment_id = r.query_segment_id WHERE g.split = 'heldout' "
            "GROUP BY r.version_kind ORDER BY r.version_kind"
        )
        truth = self.rows(
            "SELECT config FROM dim_artifact WHERE is_live AND asset = 'counterfactual/losses' "
            "AND partition = ?",
            name,
        )
        config = json.loads(truth[0]["config"]) if truth else {}
        devices = self.rows(
            "SELECT DISTINCT device FROM dim_artifact WHERE is_live "
            "AND asset = 'attribution/scores' AND split_part(partition, '|', 1) = ? ORDER BY 1",
            name,
        )
        rule = next(iter(self.rows("SELECT * FROM share_rule")), {})
        outdated = self.rows(
            f"SELECT label FROM v_bench WHERE cohort = ? AND NOT {_UP_TO_DATE} "
            "ORDER BY label, method_id",
            name,
        )
        methods = self._methods(name)
        return Cohort(
            name=name,
            methods=methods,
            queries=self._queries(name, ""),
            confirming=self._queries(name, "confirming"),
            reliabilities=self._reliabilities(name),
            differences=self._differences(name, methods),
            payouts=self._payouts(name),
            coverages=self._coverages(name),
            stabilities=self._stabilities(name),
            threshold_z=rule.get("threshold_z"),
            min_reliability=rule.get("min_reliability"),
            min_prominence=rule.get("min_prominence"),
            tracks=train["tracks"],
            planted={row["version_kind"]: row["excerpts"] for row in planted},
            settings=config.get("counterfactual", {}),
            steps=config.get("model", {}).get("training", {}).get("steps"),
            devices=tuple(row["device"] for row in devices),
            outdated=tuple(row["label"] for row in outdated),
        )

    def _methods(self, cohort: str) -> tuple[Method, ...]:
        rows = self.rows(
            "WITH members AS (SELECT cohort, method_id, list(experiment) AS experiments "
            "FROM dim_experiment GROUP BY cohort, method_id) "
            "SELECT b.*, d.config, m.experiments FROM v_bench b "
            "JOIN dim_method d USING (method_id) LEFT JOIN members m USING (cohort, method_id) "
            f"WHERE b.cohort = ? AND {_UP_TO_DATE} "
            "ORDER BY b.evidence_lds DESC, b.method_id",
            cohort,
        )
        return named([_method(row) for row in rows])

    def _queries(self, cohort: str, half: str) -> tuple[Query, ...]:
        rows = self.rows(
            "SELECT q.query_id, q.prompt, e.method_id, e.metric, e.value "
            "FROM fct_evaluation e JOIN dim_query q ON q.query_id = e.subject "
            "WHERE q.cohort = ? AND e.evaluation = 'datamodel' AND e.detail = ? "
            "AND e.metric IN ('lds', 'evidence_lds') ORDER BY q.query_index, e.method_id",
            cohort,
            half,
        )
        return tuple(_by_query(rows))

    def _reliabilities(self, cohort: str) -> tuple[Reliability, ...]:
        rows = self.rows(
            "SELECT method_id, half, reliability, prominence, evidence_lds "
            "FROM v_reliability_calibration WHERE cohort = ? AND evidence_lds IS NOT NULL "
            "ORDER BY method_id, query_id",
            cohort,
        )
        return tuple(Reliability(**row) for row in rows)

    def _differences(
        self, cohort: str, methods: Sequence[Method]
    ) -> dict[tuple[Reading, str, str, str], Difference]:
        """Between those alone that are compared: what pairs there are grows by the square."""
        judged = {m.method_id for reading in READINGS for m in entrants(methods, reading)}
        rows = self.rows(
            "SELECT * FROM v_method_difference WHERE cohort = ? AND metric <> 'payout_error' "
            "AND detail <> 'choosing' "
            "AND list_contains(?, method_id) AND list_contains(?, other_method_id)",
            cohort,
            sorted(judged),
            sorted(judged),
        )
        return {
            (row["metric"], row["detail"], row["method_id"], row["other_method_id"]): Difference(
                row["difference"], row["low"], row["high"]
            )
            for row in rows
        }

    def _payouts(self, cohort: str) -> dict[tuple[str, str, str], Payout]:
        rows = self.rows(
            "SELECT * FROM v_payout WHERE cohort = ? ORDER BY method_id, catalogues, half", cohort
        )
        return {
            (row["method_id"], row["catalogues"], row["half"]): Payout(
                **{field.name: row[field.name] for field in fields(Payout)}
            )
            for row in rows
        }

    def _coverages(self, cohort: str) -> tuple[Coverage, ...]:
        rows = self.rows(
            "SELECT a.label, a.config AS one, b.config AS other, c.scores, c.coverage, "
            "c.rank_correlation FROM v_interval_coverage c "
            "JOIN dim_method a ON a.method_id = c.method_id "
            "JOIN dim_method b ON b.method_id = c.other_method_id "
            "WHERE c.cohort = ? ORDER BY c.method_id, c.other_method_id",
            cohort,
        )
        return tuple(
            Coverage(
                name=row["label"],
                differs=departure(json.loads(row["one"]), json.loads(row["other"])),
                scores=row["scores"],
                coverage=row["coverage"],
                rank_correlation=row["rank_correlation"],
            )
            for row in rows
        )

    def _stabilities(self, cohort: str) -> tuple[Stability, ...]:
        rows = self.rows(
            "WITH placed AS (SELECT r.*, row_number() OVER (PARTITION BY r.query_id, r.method_id "
            "ORDER BY r.score DESC, r.segment_id) AS place, "
            "count(*) OVER (PARTITION BY r.query_id, r.method_id) AS segments "
            "FROM v_rank_stability r JOIN dim_query q USING (query_id) WHERE q.cohort = ?), "
            "met AS (SELECT e.method_id, avg(e.value ORDER BY e.subject) AS coverage "
            "FROM fct_evaluation e JOIN dim_query q ON q.query_id = e.subject "
            "WHERE q.cohort = ? AND e.metric = 'interval_coverage' GROUP BY e.method_id) "
            "SELECT method_id, max(segments) AS segments, "
            "median(rank_worst) FILTER (place = 1) AS first_worst, "
            "median(rank_best) FILTER (place = 10) AS tenth_best, "
            "median(rank_worst) FILTER (place = 10) AS tenth_worst, "
            "any_value(coverage) AS coverage FROM placed LEFT JOIN met USING (method_id) "
            "GROUP BY method_id HAVING max(segments) >= 10 ORDER BY method_id",
            cohort,
            cohort,
        )
        return tuple(Stability(**row) for row in rows)


def _method(row: Mapping[str, Any]) -> Method:
    given = {
        "name": row["label"],
        "evidence_lds": _lds(row, "evidence_lds"),
        "lds": _lds(row, "lds"),
        "experiments": frozenset(row["experiments"] or ()),
        "config": json.loads(row["config"]),
    }
    plain = {field.name: row[field.name] for field in fields(Method) if field.name not in given}
    return Method(**plain, **given)


def _lds(row: Mapping[str, Any], reading: Reading) -> Lds:
    ends = [field.name for field in fields(Lds) if field.name != "value"]
    return Lds(row[reading], **{end: row[f"{reading}_{end}"] for end in ends})


def _by_query(rows: Sequence[Mapping[str, Any]]) -> Iterable[Query]:
    asked: dict[str, dict[str, Any]] = {}
    for row in rows:
        new = {"prompt": row["prompt"], "evidence_lds": {}, "lds": {}}
        asked.setdefault(row["query_id"], new)[row["metric"]][row["method_id"]] = row["value"]
    return (Query(query_id, **found) for query_id, found in asked.items())
