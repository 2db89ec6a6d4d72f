"""A small study in a real store: every asset that scores stand on, made by plain functions of its
inputs and settings, so that what changes shows downstream as it does in the real chain."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from tda_dagster.store import Artifact, ArtifactStore, Recipe, Ref, canonical_json, digest_of
from warehouse.tables import BY_NAME, validate

SHARD_SEGMENTS = 4
SEGMENTS_PER_TRACK = 2
TRACKS = tuple(f"t{number:02d}" for number in range(14))
HELD_OUT = "t13"
NULL_EXCESS = 0.008490702616829646


@dataclass(frozen=True)
class Wishes:
    """What a study is made of: the settings, the music, the code."""

    audio: Mapping[str, bytes] = field(
        default_factory=lambda: {track: f"audio of {track}".encode() for track in TRACKS}
    )
    rightsholders: Mapping[str, str] = field(
        default_factory=lambda: {t: ("north", "south", "east")[n % 3] for n, t in enumerate(TRACKS)}
    )
    prompts: tuple[str, ...] = ("a slow piano", "a fast violin")
    cohort: str = "demo"
    training_steps: int = 100
    fisher_draws: int = 4
    noise_draws: int = 8
    learning_rate: float = 0.1
    device: str = "cpu"
    threshold_z: float = 2.0
    versions: Mapping[str, str] = field(default_factory=dict)
    method: str = "fim_unlearning"

    @property
    def spec(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "noise": {"draws": self.noise_draws},
            "unlearning": {"learning_rate": self.learning_rate},
        }

    @property
    def method_id(self) -> str:
        return f"{self.method.replace('_', '-')}-{digest_of(canonical_json(self.spec))[:8]}"


class Study:
    """Makes studies in one store, one after the other."""

    usual = Wishes()

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = ArtifactStore(root)

    def make(self, **changes: Any) -> dict[str, Ref]:
        """Materialise the whole chain as usual but for `changes` (fields of `Wishes`); returns the
        refs by asset."""
        return _Maker(self.store, replace(self.usual, **changes)).chain()


class _Maker:
    def __init__(self, store: ArtifactStore, wishes: Wishes) -> None:
        self.store, self.wishes = store, wishes
        self.made: dict[str, Ref] = {}

    def chain(self) -> dict[str, Ref]:
        w = self.wishes
        stamp = digest_of(b"".join(w.audio.values()) + repr(dict(w.rightsholders)).encode())
        self.asset(
            "dataset/manifest",
            {"dataset": {"manifest": "music.csv"}, "outside": {"stamp": stamp}},
            (),
            self.manifest,
        )
        self.asset("base/autoencoder", {"outside": {"shipped": "a" * 64}}, (), self.plain("vae"))
        data = ("dataset/manifest", "base/autoencoder")
        self.asset("dataset/index", {"dataset": {"seed": 0}}, data, self.index)
        shards = {"dataset": {"shard_segments": SHARD_SEGMENTS}}
        self.asset("dataset/latents", shards, (*data, "dataset/index"), self.latents)
        self.asset(
            "base/checkpoint",
            {"model": {"training": {"steps": w.training_steps}}},
            ("dataset/latents", "base/autoencoder"),
            self.plain("pipeline/weights"),
        )
        model = ("base/checkpoint", "dataset/latents")
        device = {"model": {"device": w.device}}
        fisher = {"fisher": {"draws": w.fisher_draws}, **device}
        self.asset("base/fisher", fisher, model, self.plain("fisher.safetensors"))
        noise = {"noise": {"draws": w.noise_draws}, **device}
        self.asset("base/losses", noise, model, self.plain("train-00000.parquet"))
        declared = {"queries": [{"prompt": p, "seed": n} for n, p in enumerate(w.prompts)]}
        self.asset("cohort/queries", {"outside": declared}, model, self.queries, partition=w.cohort)
        partition = f"{w.cohort}|{w.method_id}"
        spec = {"method": w.spec}
        self.asset(
            "unlearned/checkpoints",
            spec,
            (*model, "base/fisher", "cohort/queries"),
            self.deltas,
            partition=partition,
        )
        self.asset(
            "unlearned/losses",
            spec,
            (*model, "unlearned/checkpoints"),
            self.plain("queries.parquet"),
            partition=partition,
        )
        self.asset(
            "attribution/scores",
            spec,
            ("base/losses", "unlearned/losses", "dataset/index", "cohort/queries"),
            self.scores,
            partition=partition,
        )
        self.warehouse()
        return self.made

    def asset(
        self,
        name: str,
        config: Mapping[str, Any],
        inputs: tuple[str, ...],
        write: Callable[[Path, Recipe], None],
        partition: str = "",
    ) -> None:
        recipe = Recipe(
            name,
            partition=partition,
            code_version=self.wishes.versions.get(name, "1"),
            config=config,
            inputs={other: self.made[other].digest for other in inputs},
        )
        made = self.store.materialize(recipe, lambda out: write(out, recipe), run_id="run-12345678")
        self.made[name] = made.ref

    def artifact(self, name: str) -> Artifact:
        return self.store.artifact(self.made[name].digest)

    def plain(self, file: str) -> Callable[[Path, Recipe], None]:
        """Writes one file, other bytes for other recipes."""

        def write(out: Path, recipe: Recipe) -> None:
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            (out / file).write_text(f"{recipe.asset} {recipe.key}")

        return write

    def manifest(self, out: Path, recipe: Recipe) -> None:
        rows = self.wishes.rightsholders
        (out / "music.csv").write_text("\n".join(f"{t},{rows[t]}" for t in self.wishes.audio))
        pl.DataFrame(
            {
                "audio": [f"{track}.wav" for track in self.wishes.audio],
                "audio_sha256": [digest_of(data) for data in self.wishes.audio.values()],
            }
        ).write_parquet(out / "audio_files.parquet")

    def index(self, out: Path, recipe: Recipe) -> None:
        w = self.wishes
        text = dict.fromkeys(("key", "instruments", "caption", "licence"), "x")
        tracks = [
            {
                "track_id": track,
                "title": f"Title of {track}",
                "artist": "somebody",
                "rightsholder": w.rightsholders[track],
                "composer": "Anon.",
                "collection": "all",
                "tempo_bpm": 90.0,
                "version_of": None,
                "version_kind": None,
                "split": _split(track),
                "audio": f"{track}.wav",
                "audio_sha256": digest_of(audio),
                "sample_rate_hz": 16000,
                "channels": 1,
                "duration_s": 5.0,
                **text,
            }
            for track, audio in w.audio.items()
        ]
        segments = [
            {
                "segment_id": f"{track}:{number:04d}",
                "track_id": track,
                "segment_index": number,
                "start_s": 2.5 * number,
                "seconds_total": 5.0,
                "samples": 100,
                "valid_samples": 90,
                "frames": 10,
                "valid_frames": 9,
                "split": _split(track),
                "segment_sha256": digest_of(audio + bytes([number])),
            }
            for track, audio in w.audio.items()
            for number in range(SEGMENTS_PER_TRACK)
        ]
        _write(out / "tracks.parquet", tracks, "dim_track")
        _write(out / "segments.parquet", segments, "dim_segment")

    def latents(self, out: Path, recipe: Recipe) -> None:
        segments = pl.read_parquet(self.artifact("dataset/index").path("segments.parquet"))
        for split in ("train", "heldout"):
            rows = segments.filter(split=split)
            for number, start in enumerate(range(0, rows.height, SHARD_SEGMENTS)):
                part = rows.slice(start, SHARD_SEGMENTS)
                name = f"{split}-{number:05d}"
                path = self.store.materialize(
                    Recipe(
                        "dataset/latents/shard",
                        partition=name,
                        code_version="1",
                        inputs={"dataset/index": self.made["dataset/index"].digest},
                    ),
                    lambda folder, part=part: _latents(folder / "latents.safetensors", part),
                    head=False,
                ).artifact.path("latents.safetensors")
                (out / f"{name}.safetensors").write_bytes(path.read_bytes())

    def queries(self, out: Path, recipe: Recipe) -> None:
        rows = []
        (out / "audio").mkdir()
        for number, prompt in enumerate(self.wishes.prompts):
            query_id = f"{self.wishes.cohort}-{number:03d}"
            audio = f"{prompt} by {self.made['base/checkpoint'].digest}".encode()
            (out / "audio" / f"{query_id}.flac").write_bytes(audio)
            rows.append(
                {
                    "query_id": query_id,
                    "cohort": self.wishes.cohort,
                    "query_index": number,
                    "kind": "generated",
                    "prompt": prompt,
                    "negative_prompt": "",
                    "seed": number,
                    "guidance_scale": 1.5,
                    "inference_steps": 10,
                    "segment_id": None,
                    "source": None,
                    "seconds": 5.0,
                    "frames": 10,
                    "valid_frames": 9,
                    "audio_sha256": digest_of(audio),
                    "piece_id": query_id,
                    "window_index": 0,
                    "start_s": 0.0,
                    "silent": False,
                }
            )
        _write(out / "queries.parquet", rows, "dim_query")

    def deltas(self, out: Path, recipe: Recipe) -> None:
        for number in range(len(self.wishes.prompts)):
            file = out / f"{self.wishes.cohort}-{number:03d}.safetensors"
            file.write_text(f"{number} {recipe.key}")

    def scores(self, out: Path, recipe: Recipe) -> None:
        segments = pl.read_parquet(self.artifact("dataset/index").path("segments.parquet"))
        rows = []
        for number in range(len(self.wishes.prompts)):
            ids = segments.filter(split="train")["segment_id"].to_list()
            # What a segment is to a query, and a little of what the recipe adds to that.
            scores = np.array(
                [_chance("what", number, s) + 0.5 * _chance("how", recipe.key, s) for s in ids]
            )
            scores[_best(ids, number)] += 8.0
            order = (-scores).argsort()
            ranks = np.empty(len(ids), dtype=np.int64)
            ranks[order] = np.arange(1, len(ids) + 1)
            rows += [
                {
                    "query_id": f"{self.wishes.cohort}-{number:03d}",
                    "method_id": self.wishes.method_id,
                    "segment_id": segment,
                    "score": float(score),
                    "score_se": 0.1,
                    "rank": int(rank),
                }
                for segment, score, rank in zip(ids, scores, ranks, strict=True)
            ]
        _write(out / "scores.parquet", rows, "fct_score")

    def warehouse(self) -> None:
        """Gathers every live partition, as the real one does."""
        heads = {
            f"{ref.recipe.asset}[{ref.recipe.partition}]": ref
            for ref in self.store.heads()
            if ref.recipe.asset in ("attribution/scores", "cohort/queries")
        }
        index = self.made["dataset/index"]
        recipe = Recipe(
            "warehouse/duckdb",
            code_version=self.wishes.versions.get("warehouse/duckdb", "1"),
            config={"shares": {"threshold_z": self.wishes.threshold_z}},
            inputs={"dataset/index": index.digest} | {n: ref.digest for n, ref in heads.items()},
        )

        def write(out: Path) -> None:
            scored = {
                name: ref
                for name, ref in heads.items()
                if all(
                    ref.recipe.inputs.get(asset) == self.made[asset].digest
                    for asset in ("dataset/index", "base/losses")
                )
            }
            methods = {
                ref.recipe.partition.partition("|")[2]: ref.recipe.config["method"]
                for ref in scored.values()
            }
            frames = {
                "dim_track": pl.read_parquet(self.artifact("dataset/index").path("tracks.parquet")),
                "dim_segment": pl.read_parquet(
                    self.artifact("dataset/index").path("segments.parquet")
                ),
                "dim_query": _gathered(self.store, heads, "cohort/queries", "queries.parquet"),
                "fct_score": _gathered(self.store, scored, "attribution/scores", "scores.parquet"),
                "dim_method": pl.DataFrame(
                    [
                        {
                            "method_id": method_id,
                            "method": spec["method"],
                            "label": spec["method"].replace("_", " "),
                            "family": "unlearning",
                            "config": json.dumps(spec),
                        }
                        for method_id, spec in methods.items()
                    ]
                ),
                "share_rule": pl.DataFrame(
                    {
                        "threshold_z": [self.wishes.threshold_z],
                        "null_excess": [NULL_EXCESS],
                        "min_reliability": [0.0],
                        "min_prominence": [0.0],
                    }
                ),
            }
            for name, frame in frames.items():
                validate(name, frame).write_parquet(out / f"{name}.parquet")

        self.made["warehouse/duckdb"] = self.store.materialize(recipe, write).ref


def _gathered(store: ArtifactStore, refs: Mapping[str, Ref], asset: str, file: str) -> pl.DataFrame:
    return pl.concat(
        pl.read_parquet(store.artifact(ref.digest).path(file))
        for ref in refs.values()
        if ref.recipe.asset == asset
    )


def _write(path: Path, rows: list[dict[str, Any]], table: str) -> None:
    pl.DataFrame(rows, schema=BY_NAME[table].schema).write_parquet(path)


def _latents(path: Path, rows: pl.DataFrame) -> None:
    header = {"segment_ids": rows["segment_id"].to_list()}
    # Other samples, other latents.
    values = np.array([int(s[:6], 16) for s in rows["segment_sha256"]], dtype=np.float32)
    save_file({"latents": values}, path, metadata={"segments": json.dumps(header)})


def _split(track: str) -> str:
    return "heldout" if track == HELD_OUT else "train"


def _chance(*key: object) -> float:
    """A standard normal number, always the same for the same key."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big")
    return float(np.random.default_rng(seed).normal())


def _best(ids: list[str], number: int) -> int:
    """The segment that query `number` is most like."""
    return ids.index(f"t{3 + number:02d}:0000")


@pytest.fixture(scope="session")
def _usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("usual") / "store"
    Study(root).make()
    return root


@pytest.fixture
def study(_usual: Path, tmp_path: Path) -> Study:
    """The usual study, made."""
    shutil.copytree(_usual, tmp_path / "store")
    return Study(tmp_path / "store")
