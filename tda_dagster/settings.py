"""The study's settings: what `params.yaml` may say, with units, ranges and defaults.

`params.yaml` is the only source of settings. Command line, DVC and Dagster read it through these
models; an unknown key or a value out of range is an error that names the key's path.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_serializer, field_validator, model_validator

from tda_dagster.errors import SettingsError as SettingsError  # settings' callers catch it
from tda_dagster.quoting import shown
from tda_dagster.sections import Section as Section
from tda_dagster.sections import validated as validated
from tda_dagster.yaml_files import load_yaml

PARAMS_FILE = "params.yaml"


PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
"""Of an experiment: Dagster has a job of the same name."""


class StoreSettings(Section):
    """Where artifacts live."""

    root: str = Field("data/store", description="folder or fsspec URL of the artifact store")
    endpoint_url: str | None = Field(
        None, description="of the object store (null: AWS_ENDPOINT_URL_S3, else Amazon's)"
    )
    profile: str | None = Field(None, description="of the credentials (null: AWS_PROFILE)")
    region: str | None = Field(None, description="of the object store (null: AWS_REGION)")
    cache_gb: Annotated[float, Field(gt=0)] | None = Field(
        50.0, description="limit of the local copies of remote artifacts, GB (null: none)"
    )
    transfers: PositiveInt = Field(8, description="transfers at a time")
    patience_s: Annotated[float, Field(gt=0)] = Field(
        60.0, description="how long a failing object store is tried again, s"
    )


class ReferenceStudySettings(Section):
    """The embedded corpus, rendered on this machine."""

    tracks: PositiveInt | None = Field(None, description="render only so many tracks (all: null)")
    planted: Annotated[int, Field(ge=0)] = Field(
        0, description="hold so many excerpts out and train on a copy, version or mix of each"
    )
    sample_rate_hz: PositiveInt = Field(22_050, description="sampling rate of the audio files, Hz")
    seed: int = Field(0, description="seed of the performances")


class DatasetSettings(Section):
    """Which music, and how it is cut."""

    manifest: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="CSV, JSONL or Parquet manifest (null: the embedded reference study)"
    )
    reference: ReferenceStudySettings = ReferenceStudySettings()
    min_seconds: Annotated[float, Field(gt=0)] = Field(
        1.0, description="shortest valid part of a segment, s"
    )
    silence_dbfs: Annotated[float, Field(lt=0)] = Field(
        -60.0, description="a track whose peak is below this is rejected, dBFS"
    )
    max_reject_fraction: Fraction = Field(
        0.05, description="more rejected rows than this stop the run"
    )
    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="share of works kept out of training"
    )
    seed: int = Field(0, description="seed of the held-out draw")
    shard_segments: PositiveInt = Field(64, description="segments per shard, at most")
    taken_down: tuple[str, ...] = Field(
        (),
        description="ids of tracks that are left out (`tda takedown`); one that the manifest does "
        "not have stays out should it come back",
    )


class TrainingSettings(Section):
    """Training of the reference model (unused when `model.pipeline` is given)."""

    steps: PositiveInt = 2000
    batch_size: PositiveInt = 16
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    warmup_steps: PositiveInt = 50
    caption_dropout: Fraction = Field(0.1, description="for classifier-free guidance")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995
    layers: PositiveInt = 3
    heads: PositiveInt = 3
    head_dim: PositiveInt = 32
    frames: PositiveInt = Field(128, description="latent frames per segment")
    checkpoint_every: PositiveInt = Field(200, description="steps lost at most by a crash")
    seed: int = 0


class ModelSettings(Section):
    """The model whose music is attributed."""

    pipeline: str | None = Field(
        None, description="diffusers pipeline directory, URL or hub id (null: train the reference)"
    )
    device: str = Field("cpu", description="torch device")
    training: TrainingSettings = TrainingSettings()


class ComputeSettings(Section):
    """How work is spread over the machine; changes no result."""

    workers: PositiveInt | None = Field(
        None,
        description="shards worked on side by side on a CPU, each with a copy of the model "
        "(null: as many as there are cores)",
    )


class TimestepRange(Section):
    """The part of the diffusion process that draws are taken from."""

    timestep_min: Fraction = Field(0.0, description="no draw has less noise")
    timestep_max: Fraction = Field(1.0, description="no draw has more noise")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.timestep_min >= self.timestep_max:
            raise ValueError("timestep_min must be below timestep_max")
        return self


class NoiseSettings(TimestepRange):
    """The draws under which losses are compared."""

    draws: PositiveInt = 12
    mode: Literal["shared", "per_segment"] = "per_segment"
    seed: int = 0


class FisherSettings(Section):
    """Fisher information of the base model."""

    draws: PositiveInt = Field(4, description="draws per segment")
    layer_group: str = Field("everything", description="weights it is measured for")
    mask_padding: bool = Field(True, description="mask padding in its loss")
    batch_size: PositiveInt = Field(16, description="per-example gradients held in memory")
    seed: int = 1
    snapshot: str | None = Field(
        None,
        description="keep that of this snapshot, made with the same model and settings, though "
        "tracks have come or gone since (null: measure it on the present training segments)",
    )


class SweepSettings(Section):
    """The loss sweep of an unlearned model."""

    draws: PositiveInt | None = Field(
        None, description="draws of the noise plan that are swept, evenly spaced (null: all)"
    )
    batch_size: PositiveInt = 64


class ScoringSettings(Section):
    """From losses before and after unlearning to scores."""

    score: Literal["difference", "skew"] = Field(
        "difference", description="of the losses, or relative to their sum"
    )
    mask_padding: bool = Field(False, description="M_L: mask padding in the losses")
    timestep_min: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="draws at smaller timesteps (less noise) are left out"
    )


class UnlearningSettings(Section):
    """FIM-regularised unlearning."""

    layer_group: str = Field("transformer", description="weights that may change")
    mask_padding: bool = Field(True, description="M_U: mask padding while unlearning")
    learning_rate: Annotated[float, Field(gt=0)] = Field(5e-4, description="η")
    steps: PositiveInt = 1
    draws: PositiveInt = Field(64, description="draws the query's gradient is averaged over")
    damping: Annotated[float, Field(ge=0)] = Field(
        0.1, description="added to the Fisher information, in units of its mean"
    )
    seed: int = 2


class GradientSettings(TimestepRange):
    """Gradient features of pieces, which the gradient methods compare."""

    timestep_min: Fraction = Field(0.5, description="no draw has less noise")
    layer_group: str = Field("cross_attention", description="weights they are gradients in")
    mask_padding: bool = Field(True, description="mask padding in what is differentiated")
    draws: PositiveInt = Field(16, description="draws a piece's gradient is averaged over")
    draw_weights: Literal["equal", "unit_norm"] = Field(
        "equal", description="of the draws' gradients in their average, or each divided by its norm"
    )
    dimension: PositiveInt | None = Field(
        4096, description="random directions it is projected onto (null: all of it is kept)"
    )
    batch_size: PositiveInt = Field(16, description="per-example gradients held in memory")
    seed: int = 7


class GenerationSettings(Section):
    """How queries are generated from prompts."""

    inference_steps: PositiveInt = 50
    guidance_scale: Annotated[float, Field(ge=0)] = 1.5
    negative_prompt: str = ""


class FidelitySettings(Section):
    """Pieces generated before and after unlearning: is the model otherwise what it was?"""

    pieces: Annotated[int, Field(ge=2)] = Field(48, description="pieces per cohort and method")
    inference_steps: PositiveInt = 25
    guidance_scale: Annotated[float, Field(ge=0)] = 1.5
    resamples: PositiveInt = Field(500, description="bootstrap resamples of the interval")
    seed: Annotated[int, Field(ge=0)] = 3


class EmbeddingSettings(Section):
    """Audio embeddings, beside the weight-free ones."""

    clap: str | None = Field(
        None, description="directory or hub id of a CLAP model of transformers (null: none)"
    )


class ShareSettings(Section):
    """From scores to shares."""

    threshold_z: Annotated[float, Field(ge=0)] = Field(
        2.0, description="robust z-score above which a segment counts as evidence"
    )
    support: Fraction | None = Field(
        None,
        description="part of a query that is attributed at most; the rest is unattributed (null: "
        "as measured on the bench for the method, 0 for one that was not measured)",
    )
    min_reliability: Fraction = Field(
        0.1, description="queries whose scores are less reliable than this are not attributed"
    )
    min_prominence: Annotated[float, Field(ge=0)] = Field(
        1.0,
        description="queries of which no segment stands out this many times as far as noise alone "
        "would have it are not attributed",
    )


class CounterfactualSettings(Section):
    """Ground truth by retraining: what the model would have been without some of its tracks."""

    subsets: Annotated[int, Field(ge=2)] = Field(32, description="random subsets trained on")
    fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="share of the training tracks that a subset keeps"
    )
    repeats: PositiveInt = Field(1, description="trainings per subset, each from another seed")
    coalitions: PositiveInt = Field(
        64, description="random coalitions of the catalogues trained on, beside all and all but one"
    )
    coalition_repeats: PositiveInt = Field(
        1, description="trainings per coalition, each from another seed"
    )
    catalogues: tuple[Literal["rightsholder", "unequal"], ...] = Field(
        ("rightsholder", "unequal"),
        description="assignments of tracks to parties: the dataset's, or one of very unequal sizes",
    )
    draws: PositiveInt = Field(32, description="draws of a query's loss under each training")
    removed_tracks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (8,),
        description="most attributed tracks that are left out; several numbers: each by itself",
    )
    removal_queries: PositiveInt = Field(6, description="queries of a cohort that this is done for")
    removal_methods: tuple[str, ...] = Field(
        (), description="methods that this is trained for, of the others what is stored; none: all"
    )
    seed: int = Field(6, description="of the subsets and of the draws")
    stored: bool = Field(
        True, description="take what the package's ground truth has; false: train all of it here"
    )
    of_cohort: dict[str, dict[str, Any]] = Field(
        {}, description="by cohort: keys of this section that have another value for it"
    )

    @model_validator(mode="after")
    def _valid_for_every_cohort(self) -> Self:
        for cohort in self.of_cohort:
            try:
                self.of(cohort)
            except SettingsError as error:
                raise ValueError(str(error)) from None
        return self

    def of(self, cohort: str) -> "CounterfactualSettings":
        """The settings for a cohort. Raises SettingsError naming the key."""
        own = self.of_cohort.get(cohort, {})
        if not own:
            return self
        raw = self.model_dump(exclude={"of_cohort"}) | own
        changed: CounterfactualSettings = validated(
            CounterfactualSettings, raw, f"of_cohort.{cohort}"
        )
        return changed

    @field_validator("removed_tracks", mode="before")
    @classmethod
    def _one_number_too(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("removed_tracks")
    @classmethod
    def _in_order(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        """Numbers of tracks once each, in ascending order: their order means nothing."""
        return tuple(sorted(set(value)))

    @field_serializer("removed_tracks")
    def _one_as_a_number(self, value: tuple[int, ...]) -> int | list[int]:
        """A single number as what it was before there could be several: recipes have it."""
        return value[0] if len(value) == 1 else list(value)

    def trains_removal(self, method: str) -> bool:
        """Whether models are trained without what a method found; else what is stored is all."""
        return not self.removal_methods or method in self.removal_methods


class ReportSettings(Section):
    """The report page."""

    top_tracks: PositiveInt = 5


class ExperimentSettings(Section):
    """Cohorts crossed with method specs: `methods` × the combinations of `grid`."""

    cohorts: tuple[str, ...] = Field(min_length=1, description="names of cohorts")
    methods: tuple[str, ...] = Field(("fim_unlearning",), min_length=1)
    settings: dict[str, Any] = Field({}, description="dotted keys that differ from the study's")
    grid: tuple[dict[str, tuple[Any, ...]], ...] = Field(
        ({},), min_length=1, description="blocks of dotted keys; each block is a full product"
    )


class Settings(Section):
    """All settings of a study, as `params.yaml` lays them out."""

    store: StoreSettings = StoreSettings()
    dataset: DatasetSettings = DatasetSettings()
    model: ModelSettings = ModelSettings()
    compute: ComputeSettings = ComputeSettings()
    noise: NoiseSettings = NoiseSettings()
    fisher: FisherSettings = FisherSettings()
    sweep: SweepSettings = SweepSettings()
    scoring: ScoringSettings = ScoringSettings()
    methods: tuple[str, ...] = Field(
        ("fim_unlearning",), min_length=1, description="attribution methods of the main job"
    )
    method_settings: dict[str, dict[str, Any]] = Field(
        {
            "mucs": {"scoring": {"score": "skew", "timestep_min": 0.5}},
            # Gradients are of many segments, and sweeps of the queries alone.
            "catalogue_unlearning": {"unlearning": {"draws": 8}, "noise": {"draws": 64}},
            "catalogue_mucs": {"noise": {"draws": 64}},
            # Chosen on the bench's choosing half (`tda bench attribution --ideas`).
            "kernel_influence": {"gradients": {"objective": "energy"}},
            "ekfac_influence": {"gradients": {"objective": "energy"}},
            "trajectory_influence": {"gradients": {"objective": "energy"}},
            "unlearning_ensemble": {"gradients": {"objective": "energy"}},
        },
        description="by method: what differs from the sections its fields are named after",
    )
    unlearning: UnlearningSettings = UnlearningSettings()
    gradients: GradientSettings = GradientSettings()
    embeddings: EmbeddingSettings = EmbeddingSettings()
    generation: GenerationSettings = GenerationSettings()
    fidelity: FidelitySettings = FidelitySettings()
    shares: ShareSettings = ShareSettings()
    counterfactual: CounterfactualSettings = CounterfactualSettings()
    report: ReportSettings = ReportSettings()
    experiments: dict[Name, ExperimentSettings] = Field({}, description="by name")


def load_settings(path: Path, overrides: dict[str, Any] | None = None) -> Settings:
    """Read and validate `params.yaml`; raises SettingsError naming the file and the key.

    `overrides` maps dotted keys (`unlearning.steps`) to values that replace the file's.
    """
    try:
        raw = load_yaml(path)
    except FileNotFoundError:
        raise SettingsError(
            f"{path}: no settings here; run in a study's folder, or make one with `tda init`"
        ) from None
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: must hold a mapping of settings, not {shown(raw)}")
    _place(raw, overrides or {}, str(path))
    settings: Settings = validated(Settings, raw, str(path))
    return settings


def overridden(settings: Settings, changes: Mapping[str, Any], source: str) -> Settings:
    """The settings with other values for some dotted keys; `source` names them in errors."""
    raw = settings.model_dump()
    _place(raw, changes, source)
    changed: Settings = validated(Settings, raw, source)
    return changed


def _place(raw: dict[str, Any], changes: Mapping[str, Any], source: str) -> None:
    for key, value in changes.items():
        *sections, name = key.split(".")
        target = raw
        for section in sections:
            if target.get(section) is None:
                target[section] = {}
            target = target[section]
            if not isinstance(target, dict):
                raise SettingsError(
                    f"{source}: {shown(key)}: {shown(section)} has no keys of its own, it is "
                    f"{shown(target)}"
                )
        target[name] = deepcopy(value)  # later changes may go into it
