"""The tables of the warehouse, defined once.

DDL, validation, comments and the data dictionary are generated from these definitions. What a
view computes is said in its `.sql` file.
"""

from dataclasses import dataclass

import polars as pl

from tda_dagster.errors import TdaError

SQL_TYPES = {pl.String: "VARCHAR", pl.Int64: "BIGINT", pl.Float64: "DOUBLE", pl.Boolean: "BOOLEAN"}


class WarehouseError(TdaError):
    """Data that does not fit the warehouse, or a query that cannot be answered."""


@dataclass(frozen=True)
class Column:
    """A column; `references` names the table and column whose values it takes, `choices` the only
    values it may have. A column that was `added` later is null in older tables."""

    name: str
    dtype: type[pl.DataType]
    description: str
    unit: str = ""
    nullable: bool = False
    references: tuple[str, str] | None = None
    choices: tuple[str, ...] = ()
    added: bool = False

    @property
    def comment(self) -> str:
        return f"{self.description} [{self.unit}]" if self.unit else self.description


@dataclass(frozen=True)
class Table:
    """A table; `key` columns identify a row. Nulls may be part of a key."""

    name: str
    description: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pl.Schema:
        return pl.Schema({column.name: column.dtype for column in self.columns})

    def ddl(self) -> str:
        """CREATE TABLE statement."""
        lines = [
            f"    {c.name} {SQL_TYPES[c.dtype]}{'' if c.nullable else ' NOT NULL'}"
            for c in self.columns
        ]
        return f"CREATE TABLE {self.name} (\n" + ",\n".join(lines) + "\n)"


def _s(name: str, description: str, **more: object) -> Column:
    return Column(name, pl.String, description, **more)  # type: ignore[arg-type]


def _i(name: str, description: str, **more: object) -> Column:
    return Column(name, pl.Int64, description, **more)  # type: ignore[arg-type]


def _f(name: str, description: str, **more: object) -> Column:
    return Column(name, pl.Float64, description, **more)  # type: ignore[arg-type]


_SPLIT = "train: the model learnt from it; heldout: it did not"
_SPLITS = ("train", "heldout")
_QUERY = {"references": ("dim_query", "query_id")}
_METHOD = {"references": ("dim_method", "method_id")}
_SEGMENT = {"references": ("dim_segment", "segment_id")}

TABLES = (
    Table(
        "dim_track",
        "One row per training recording.",
        ("track_id",),
        (
            _s("track_id", "identifies the track"),
            _s("title", "title"),
            _s("artist", "performer (fictional in the reference study)"),
            _s("rightsholder", "who is paid (fictional in the reference study)"),
            _s("composer", "composer"),
            _s("collection", "collection the track belongs to"),
            _s("key", "musical key"),
            _f("tempo_bpm", "tempo of the quarter note", unit="1/min", nullable=True),
            _s("instruments", "instruments"),
            _s("caption", "text the model is conditioned on"),
            _s("licence", "terms of the source"),
            _s(
                "version_of",
                "track that this is another rendition of",
                nullable=True,
                references=("dim_track", "track_id"),
            ),
            _s("version_kind", "what differs from that track", nullable=True),
            _s("split", _SPLIT, choices=_SPLITS),
            _s(
                "extra",
                "the manifest's other columns, a JSON object of strings: extra ->> 'label' is the "
                "column label, null where it is not given",
                nullable=True,
                added=True,
            ),
            _s("audio", "audio file, as in the manifest; secrets in a URL are masked"),
            _s("audio_sha256", "sha256 of the audio file"),
            _i("sample_rate_hz", "sampling rate of the audio file", unit="Hz"),
            _i("channels", "channels of the audio file"),
            _f("duration_s", "length of the recording", unit="s"),
        ),
    ),
    Table(
        "dim_segment",
        "One row per segment: the window of a track that is trained on and scored.",
        ("segment_id",),
        (
            _s("segment_id", "identifies the segment"),
            _s("track_id", "its track", references=("dim_track", "track_id")),
            _i("segment_index", "place in the track, from 0"),
            _f("start_s", "start in the track", unit="s"),
            _f("seconds_total", "length of the track", unit="s"),
            _i("samples", "length of the window at the model's rate", unit="samples"),
            _i("valid_samples", "samples that are music, not padding", unit="samples"),
            _i("frames", "length of the window in latents", unit="frames"),
            _i("valid_frames", "latent frames that are music", unit="frames"),
            _s("split", _SPLIT, choices=_SPLITS),
            _s("segment_sha256", "sha256 of the window's float32 PCM"),
        ),
    ),
    Table(
        "dim_query",
        "One row per query: a piece to attribute, or a window of a piece that is longer than the "
        "model's window.",
        ("query_id",),
        (
            _s("query_id", "identifies the query"),
            _s("cohort", "cohort it is attributed with"),
            _i("query_index", "place of the piece in the cohort, from 0"),
            _s(
                "kind",
                "generated, audio (imported) or segment (self-influence)",
                choices=("generated", "audio", "segment"),
            ),
            _s("prompt", "prompt or caption it is conditioned on"),
            _s("negative_prompt", "negative prompt of the generation"),
            _i("seed", "seed of the generation", nullable=True),
            _f("guidance_scale", "classifier-free guidance", nullable=True),
            _i("inference_steps", "denoising steps of the generation", nullable=True),
            _s("segment_id", "training segment, for self-influence", nullable=True, **_SEGMENT),
            _s("source", "imported file", nullable=True),
            _f("seconds", "length", unit="s"),
            _i("frames", "latent frames", unit="frames"),
            _i("valid_frames", "latent frames that are music", unit="frames"),
            _s("audio_sha256", "sha256 of the query's audio"),
            _s("piece_id", "the piece that the query is a window of; its own id for a whole piece"),
            _i("window_index", "place of the window in the piece, from 0"),
            _f("start_s", "start of the window in the piece", unit="s"),
            Column("silent", pl.Boolean, "a silent window, which is listed but not attributed"),
        ),
    ),
    Table(
        "dim_method",
        "One row per method spec: an attribution method with all its settings.",
        ("method_id",),
        (
            _s("method_id", "slug and hash of the settings"),
            _s("method", "name of the method"),
            _s("label", "name for people"),
            _s("family", "family of methods"),
            _s("config", "all settings, canonical JSON"),
        ),
    ),
    Table(
        "dim_experiment",
        "One row per cohort and method spec of an experiment that has been scored.",
        ("experiment", "cohort", "method_id"),
        (
            _s("experiment", "name of the experiment, as in params.yaml"),
            _s("cohort", "cohort of its queries"),
            _s("method_id", "one of its method specs", **_METHOD),
        ),
    ),
    Table(
        "dim_artifact",
        "One row per computed artifact, live or not.",
        ("recipe_key",),
        (
            _s("recipe_key", "sha256 of everything that determines it"),
            _s("artifact_digest", "sha256 of the artifact"),
            _s("asset", "asset"),
            _s("partition", "cohort, cohort|method, or empty"),
            _s("code_version", "version of the asset's code"),
            _s("config", "settings it was made with, canonical JSON"),
            _s("config_digest", "sha256 of config"),
            _i("size_bytes", "size", unit="bytes"),
            _f("seconds", "time it took to compute", unit="s"),
            _s("device", "device it was computed on"),
            _s("run_id", "Dagster run that computed it"),
            _s("created_at", "when, UTC"),
            Column("is_live", pl.Boolean, "the present version of its asset and partition"),
        ),
    ),
    Table(
        "lineage_edge",
        "One row per input of an artifact.",
        ("recipe_key", "input_name"),
        (
            _s("recipe_key", "the artifact", references=("dim_artifact", "recipe_key")),
            _s("input_name", "name of the input"),
            _s("input_digest", "sha256 of the input"),
            _s(
                "input_recipe_key",
                "recipe that made the input; null for raw input",
                nullable=True,
                references=("dim_artifact", "recipe_key"),
            ),
        ),
    ),
    Table(
        "dim_asset_state",
        "What the present code and settings ask for, per live artifact.",
        ("asset", "partition"),
        (
            _s("asset", "asset"),
            _s("partition", "partition"),
            _s("code_version", "present version of the asset's code"),
            _s("config_digest", "sha256 of the present settings"),
        ),
    ),
    Table(
        "fct_loss",
        "Losses before (query_id null) and after unlearning a query.",
        ("query_id", "method_id", "segment_id", "draw"),
        (
            _s("query_id", "the unlearned query; null: base weights", nullable=True, **_QUERY),
            _s("method_id", "how it was unlearned; null: base weights", nullable=True, **_METHOD),
            _s("segment_id", "the segment", **_SEGMENT),
            _i("draw", "draw of the noise plan"),
            _f("timestep", "timestep of the draw, in (0, 1); 1 is pure noise"),
            _f(
                "loss",
                "v-objective: mean squared error of the predicted velocity over all frames",
            ),
            _f("loss_valid", "the same over valid frames only: padding has no say"),
        ),
    ),
    Table(
        "fct_score",
        "Influence of each training segment on each query.",
        ("query_id", "method_id", "segment_id"),
        (
            _s("query_id", "the query", **_QUERY),
            _s("method_id", "the method", **_METHOD),
            _s("segment_id", "the training segment", **_SEGMENT),
            _f(
                "score",
                "larger = more influential. Methods that unlearn: mean over draws of the rise of "
                "the segment's loss when the query is unlearned (or of its skew); similarity "
                "methods: similarity; see config of dim_method. Scales differ: compare scores "
                "within a query and method, not across",
            ),
            _f(
                "score_se",
                "standard error of a mean over draws; null where there is none",
                nullable=True,
            ),
            _i("rank", "place among all segments, 1 = most influential"),
        ),
    ),
    Table(
        "fct_evaluation",
        "Figures about models, methods and attributions.",
        ("evaluation", "subject", "method_id", "metric", "detail"),
        (
            _s("evaluation", "what was evaluated"),
            _s("subject", "query, segment or step the figure is about"),
            _s("method_id", "the method, where there is one", nullable=True, **_METHOD),
            _s("metric", "name of the figure"),
            _f("value", "the figure"),
            _s("unit", "its unit"),
            _s(
                "direction",
                "which way is better: higher, lower or none",
                choices=("higher", "lower", "none"),
            ),
            _s("detail", "what else distinguishes it"),
        ),
    ),
    Table(
        "fct_resample",
        "A mean over a cohort's queries, when queries and the subsets that were retrained for are "
        "drawn again. A resample has the same draws for all methods.",
        ("cohort", "method_id", "metric", "detail", "resample"),
        (
            _s("cohort", "whose queries"),
            _s("method_id", "the method", **_METHOD),
            _s("metric", "what is resampled, as in fct_evaluation"),
            _s("detail", "of which part of the queries and subsets, as in fct_evaluation"),
            _i("resample", "number of the draw"),
            _f("value", "the mean then"),
        ),
    ),
    Table(
        "share_rule",
        "One row: how shares come from scores. See the section on shares.",
        (),
        (
            _f("threshold_z", "robust z-score above which a score is evidence"),
            _f("null_excess", "mean of max(0, Z − threshold_z) for standard normal Z"),
            _f("min_reliability", "queries of less reliability are not attributed"),
            _f("min_prominence", "queries of less prominence are not attributed"),
            _f(
                "interval_floor",
                "keeps the interval of a payout near 0 or 1 from vanishing",
                nullable=True,
                added=True,
            ),
        ),
    ),
    Table(
        "method_support",
        "How much of a query each method's evidence decides. See the section on shares.",
        ("method_id",),
        (
            _s("method_id", "the method", **_METHOD),
            _f("support", "part of a query that is attributed at most, in [0, 1]"),
            _f(
                "spread",
                "size of the intervals of payouts; null where it was not measured",
                nullable=True,
            ),
        ),
    ),
)

BY_NAME = {table.name: table for table in TABLES}


def validate(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the table's columns in order and its rows sorted by key.

    Raises WarehouseError naming table, column and an offending row.
    """
    table = BY_NAME[name]
    frame = frame.with_columns(
        pl.lit(None, column.dtype).alias(column.name)
        for column in table.columns
        if column.added and column.name not in frame.columns
    )
    missing = [c.name for c in table.columns if c.name not in frame.columns]
    if missing:
        raise WarehouseError(f"{name}: column {missing[0]} is missing ({frame.height} rows)")
    frame = frame.select(c.name for c in table.columns)
    for column in table.columns:
        have = frame.schema[column.name]
        if have != column.dtype and frame[column.name].null_count() < frame.height:
            raise WarehouseError(
                f"{name}.{column.name}: is {have}, must be {column.dtype} ({frame.height} rows, "
                f"e.g. {frame[column.name].drop_nulls()[0]!r})"
            )
    frame = frame.cast(table.schema)
    for column in table.columns:
        _check_values(name, column, frame)
    if table.key:
        repeated = frame.filter(frame.select(table.key).is_duplicated())
        if repeated.height:
            key = dict(zip(table.key, repeated.select(table.key).row(0), strict=True))
            raise WarehouseError(f"{name}: {repeated.height} rows share a key, e.g. {key}")
        frame = frame.sort(table.key, nulls_last=False)
    elif frame.height > 1:
        raise WarehouseError(f"{name}: {frame.height} rows, must be one")
    return frame


def _check_values(name: str, column: Column, frame: pl.DataFrame) -> None:
    values = frame[column.name]
    if not column.nullable and values.null_count():
        where = values.is_null().arg_max()
        raise WarehouseError(
            f"{name}.{column.name}: {values.null_count()} nulls, first in row {where}"
        )
    if column.dtype == pl.Float64:
        bad = values.drop_nulls().filter(~values.drop_nulls().is_finite())
        if len(bad):
            raise WarehouseError(
                f"{name}.{column.name}: {len(bad)} values not finite, e.g. {bad[0]}"
            )
    if column.choices:
        wrong = values.drop_nulls().filter(~values.drop_nulls().is_in(column.choices))
        if len(wrong):
            raise WarehouseError(
                f"{name}.{column.name}: {len(wrong)} values are none of "
                f"{', '.join(column.choices)}, e.g. {wrong[0]!r}"
            )


def with_windows(queries: pl.DataFrame) -> pl.DataFrame:
    """Rows of `dim_query`; those that were made before pieces had windows are pieces of one."""
    if "piece_id" in queries.columns:
        return queries
    return queries.with_columns(
        piece_id=pl.col("query_id"),
        window_index=pl.lit(0, pl.Int64),
        start_s=pl.lit(0.0, pl.Float64),
        silent=pl.lit(False),
    )


def empty(name: str) -> pl.DataFrame:
    """The table without rows."""
    return pl.DataFrame(schema=BY_NAME[name].schema)
