"""The folder a study lives in: its settings, its cohorts, its store, its outputs.

What belongs here: where things are. `params.yaml` and `cohorts/` are the user's; everything else
is computed and may be deleted.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from tda_dagster.object_storage import export_settings
from tda_dagster.settings import (
    PARAMS_FILE,
    Section,
    Settings,
    SettingsError,
    load_settings,
    validated,
)
from tda_dagster.store import Artifact, ArtifactStore
from tda_dagster.yaml_files import load_yaml

WORKSPACE_VARIABLE = "TDA_WORKSPACE"


class Query(Section):
    """One piece to attribute, as a cohort file declares it: exactly one of `prompt` (generate),
    `audio` (a file, optionally with the `caption` it is conditioned on) and `segment` (a training
    segment, for self-influence)."""

    prompt: str | None = None
    audio: str | None = None
    segment: str | None = None
    caption: str = ""
    seed: int = 0
    seconds: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Query":
        given = [k for k in ("prompt", "audio", "segment") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of prompt, audio and segment, not {given}")
        return self

    @property
    def kind(self) -> Literal["generated", "audio", "segment"]:
        if self.prompt is not None:
            return "generated"
        return "audio" if self.audio is not None else "segment"


class Targets(Section):
    """Segments of the dataset as queries, as for self-influence: the members nearest to the
    centres of k-means over an audio embedding of them."""

    count: Annotated[int, Field(gt=0)] = 40
    embedding: str = "timbre"
    among: Literal["train", "versions", "planted"] = Field(
        "train",
        description="all training segments, those with another rendition in training, or held-out "
        "ones with a rendition in training",
    )
    seed: int = 0


class Cohort(Section):
    """A named set of queries that are attributed together: a list, or chosen targets."""

    queries: tuple[Query, ...] = ()
    targets: Targets | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Cohort":
        if bool(self.queries) == (self.targets is not None):
            raise ValueError("give either queries (at least one) or targets")
        return self


@dataclass(frozen=True)
class Workspace:
    """A study's folder, with `overrides` (dotted keys) to its settings."""

    root: Path
    overrides: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls) -> "Workspace":
        """The folder named by TDA_WORKSPACE, else the present one."""
        return cls(Path(os.environ.get(WORKSPACE_VARIABLE) or Path.cwd()).resolve())

    @cached_property
    def settings(self) -> Settings:
        """The validated settings; raises SettingsError. Where the object store is becomes known
        to this process and its children, as the AWS variables that are not set already."""
        settings = load_settings(self.root / PARAMS_FILE, self.overrides)
        store = settings.store
        export_settings(endpoint_url=store.endpoint_url, profile=store.profile, region=store.region)
        return settings

    @cached_property
    def store(self) -> ArtifactStore:
        options = self.settings.store
        return ArtifactStore(
            self.locate(options.root),
            cache_dir=self.cache,
            cache_bytes=None if options.cache_gb is None else int(options.cache_gb * 1e9),
            transfers=options.transfers,
            patience_s=options.patience_s,
        )

    @property
    def database(self) -> Path:
        return self.root / "warehouse" / "attribution.duckdb"

    @property
    def reports(self) -> Path:
        return self.root / "data" / "report"

    @property
    def rejects(self) -> Path:
        """Where all bad rows of a manifest are listed that stopped a run."""
        return self.root / "data" / "rejects.csv"

    @property
    def digests(self) -> Path:
        """Where the digests of each asset group are listed for DVC."""
        return self.root / "data" / "digests"

    @property
    def cache(self) -> Path:
        """Copies of artifacts as plain folders; may be deleted at any time."""
        return self.root / "data" / "cache"

    @property
    def dagster_home(self) -> Path:
        return self.root / "data" / "dagster"

    def locate(self, path: str) -> str:
        """A path of the settings as an absolute path or URL."""
        return path if "://" in path else str(self.root / path)

    @property
    def workers(self) -> int:
        """Shards to work on side by side: one on an accelerator, which they would only share."""
        settings = self.settings
        if settings.model.device != "cpu":
            return 1
        return settings.compute.workers or len(os.sched_getaffinity(0))

    def plain_folder(self, artifact: Artifact) -> Path:
        """The artifact as a folder with proper names, kept in the cache."""
        return self.store.plain_folder(artifact)

    def cohorts(self) -> list[str]:
        """The names of all cohorts that have a file."""
        return sorted(path.stem for path in (self.root / "cohorts").glob("*.yaml"))

    def cohort(self, name: str) -> Cohort:
        """Read `cohorts/<name>.yaml`; raises SettingsError naming the file and the key."""
        path = self.cohort_file(name)
        try:
            raw = load_yaml(path)
        except FileNotFoundError:
            raise SettingsError(
                f"{path}: there is no cohort {name!r}; existing: {', '.join(self.cohorts())}. "
                f"Make one with `tda query add --cohort {name} --prompt '…'`"
            ) from None
        cohort: Cohort = validated(Cohort, raw, str(path))
        return cohort

    def cohort_file(self, name: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise SettingsError(
                f"cohort {name!r}: a name is letters, digits, '-' and '_', starting with a letter "
                "or digit"
            )
        return self.root / "cohorts" / f"{name}.yaml"

    def add_queries(self, name: str, queries: list[Query]) -> Path:
        """Append queries to a cohort's file, making it if need be; returns the file."""
        path = self.cohort_file(name)
        present: list[Query] = []
        if path.exists():
            cohort = self.cohort(name)
            if cohort.targets is not None:
                raise SettingsError(f"{path}: its queries are chosen targets; name another cohort")
            present = list(cohort.queries)
        cohort = Cohort(queries=(*present, *queries))
        path.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(
            cohort.model_dump(mode="json", exclude_defaults=True),
            sort_keys=False,
            allow_unicode=True,
            width=1000,
        )
        staged = path.with_suffix(".tmp")
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
        return path


def nested(settings: Settings, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of each dotted key; a section is a value of its own."""
    for key in keys:
        value: Any = settings
        for part in key.split("."):
            value = getattr(value, part)
        yield tuple(key.split(".")), value
