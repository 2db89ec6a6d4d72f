"""What was computed from what: recipes, the refs that answer them, and the heads that are live.

A ref lies at `refs/<asset>/<partition>/<recipe key>.json` and is written once. A head lies at
`heads/<asset>/<partition>.json`, names one ref, and changes. Nothing here reads blobs.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import quote

from tda_dagster.errors import TdaError
from tda_dagster.store.canonical import canonical_json, digest_of, is_digest, require_digest
from tda_dagster.store.errors import CorruptRecord, StoreError
from tda_dagster.store.places import Place
from tda_dagster.store.records import read_records, sealed, unsealed

# Most filesystems allow 255 bytes in a name; this leaves room for the digest and the suffix.
_LONGEST_PART = 180

_log = logging.getLogger(__name__)

Record = TypeVar("Record")


@dataclass(frozen=True, eq=False)
class Recipe:
    """Everything that determines an artifact. Two recipes are equal if their keys are.

    `asset` is a path such as "dataset/index", `partition` any text ("" for none), `config` a
    mapping of JSON values, `inputs` the digest of each input by name. Raises `StoreError` for a
    config without a JSON form, an asset name with an empty part, and an input that is no digest.
    """

    asset: str
    _: KW_ONLY
    partition: str = ""
    code_version: str
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(self.asset.split("/")):
            raise StoreError(f"asset {self.asset!r}: a name such as 'dataset/index' is needed")
        for name, digest in self.inputs.items():
            require_digest(digest, f"input {name!r} of {self.asset}")
        # A copy in JSON's own types: later changes to the caller's objects cannot reach the key,
        # and a recipe read back from a ref is the same as the one that was written.
        snapshot = json.loads(canonical_json({"config": self.config, "inputs": self.inputs}))
        object.__setattr__(self, "config", snapshot["config"])
        object.__setattr__(self, "inputs", snapshot["inputs"])

    @cached_property
    def key(self) -> str:
        """sha256 of the canonical JSON of all fields."""
        return digest_of(canonical_json(self.record()))

    def record(self) -> dict[str, Any]:
        """The fields, as they are written to JSON."""
        return {
            "asset": self.asset,
            "partition": self.partition,
            "code_version": self.code_version,
            "config": self.config,
            "inputs": self.inputs,
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class Ref:
    """The answer to a recipe: the artifact with `digest`, and how it came to be.

    `size_bytes` is that of the artifact's files, `seconds` what computing took on `device` in run
    `run_id`, `created_at` an ISO 8601 time in UTC.
    """

    recipe: Recipe
    digest: str
    size_bytes: int
    run_id: str
    device: str
    seconds: float
    created_at: str


@dataclass(frozen=True)
class Head:
    """Which ref is live for an asset and partition."""

    asset: str
    partition: str
    recipe: str
    digest: str


class RefBook:
    """All refs and heads of a store."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._seen: dict[str, Ref] = {}
        self._makers: dict[str, str] = {}

    def find(self, recipe: Recipe) -> Ref | None:
        """The ref that answers `recipe`."""
        name = _ref_name(recipe.asset, recipe.partition, recipe.key)
        record = read_records(self._place, [name], self._parse_ref).get(name)
        return None if record is None else _sound(record)

    def create(self, ref: Ref) -> Ref:
        """Write `ref` unless its recipe has one already; returns the one that is there now. One
        that cannot be read is replaced."""
        self._place.create(_name_of(ref), _ref_bytes(ref))
        # Read back rather than believed, for a server that takes the condition lightly.
        try:
            return self.find(ref.recipe) or ref
        except CorruptRecord as damaged:
            _log.warning("%s It is written again.", damaged)
            self.replace(ref)
            return ref

    def replace(self, ref: Ref) -> None:
        """Write `ref` in place of one whose artifact has been lost."""
        self._place.write(_name_of(ref), _ref_bytes(ref))
        self._seen.pop(_name_of(ref), None)

    def renew(self, ref: Ref) -> None:
        """Write `ref` once more as it is, so that it counts as new (see `collection`)."""
        self._place.write(_name_of(ref), _ref_bytes(ref))

    def refs(self) -> Iterator[Ref]:
        """Every ref, by asset, partition and key. Raises `CorruptRecord`."""
        yield from (_sound(ref) for ref in self.scan_refs())

    def set_head(self, ref: Ref) -> None:
        """Make `ref` the live one of its asset and partition; the last to call this wins."""
        recipe = ref.recipe
        head = Head(recipe.asset, recipe.partition, recipe.key, ref.digest)
        name, data = _head_name(recipe.asset, recipe.partition), sealed(asdict(head))
        # What is so already need not be written: a study may be read where nobody may write.
        if self._place.read_many([name]).get(name) != data:
            self._place.write(name, data)

    def head(self, asset: str, partition: str = "") -> Ref | None:
        """The live ref. Raises `CorruptRecord` if the head is damaged or its ref has gone."""
        return next(map(_sound, self._resolve([_head_name(asset, partition)])), None)

    def heads(self) -> list[Ref]:
        """The live refs, by asset and partition. Raises `CorruptRecord`."""
        return sorted(map(_sound, self.scan_heads()), key=_by_asset)

    def live_recipes(self) -> set[str]:
        """The keys of the recipes that heads name, whether or not their refs are there. Raises
        `CorruptRecord`."""
        return {_sound(h).recipe for h in self._read_heads(self._place.names("heads")).values()}

    def partitions(self, asset: str) -> list[str]:
        """The partitions of `asset` that have a head, sorted."""
        folder = f"heads/{_asset_path(asset)}"
        # One level only: "a/b" is an asset of its own, not a partition of "a".
        names = [n for n in self._place.names(folder) if "/" not in n[len(folder) + 1 :]]
        return sorted(_sound(head).partition for head in self._read_heads(names).values())

    def scan_heads(self) -> Iterator[Ref | CorruptRecord]:
        """The ref of every head, or what is wrong with it."""
        return self._resolve(self._place.names("heads"))

    def scan_refs(self) -> Iterator[Ref | CorruptRecord]:
        """Every ref, or what is wrong with it."""
        names = [name for name in self._place.names("refs") if is_ref(name)]
        # Refs do not change once written, so only new ones are read.
        new = [name for name in names if name not in self._seen]
        read = read_records(self._place, new, self._parse_ref)
        self._seen |= {name: ref for name, ref in read.items() if isinstance(ref, Ref)}
        known = self._seen | read
        yield from (known[name] for name in names if name in known)

    def maker(self, digest: str) -> str:
        """Which asset, and partition, the artifact `digest` belongs to, in words; "" if no ref
        says so. Reads all refs unless one was seen that does."""
        if digest not in self._makers:
            with suppress(TdaError):
                for _ in self.scan_refs():
                    pass
        return self._makers.get(digest, "")

    def _read_heads(self, names: list[str]) -> dict[str, Head | CorruptRecord]:
        heads = read_records(self._place, names, self._parse_head)
        # File managers put files of their own beside others, with names that begin with a dot.
        return {
            name: head
            for name, head in heads.items()
            if isinstance(head, Head) or not name.rpartition("/")[2].startswith(".")
        }

    def _resolve(self, head_names: list[str]) -> Iterator[Ref | CorruptRecord]:
        heads = self._read_heads(head_names)
        wanted = {
            name: _ref_name(head.asset, head.partition, head.recipe)
            for name, head in heads.items()
            if isinstance(head, Head)
        }
        found = read_records(self._place, wanted.values(), self._parse_ref)
        for name, head in heads.items():
            if isinstance(head, CorruptRecord):
                yield head
            elif (ref_name := wanted[name]) in found:
                yield found[ref_name]
            else:
                gone = f"it names the ref {self._place.where(ref_name)}, which does not exist"
                yield CorruptRecord(self._place.where(name), gone)

    def _parse_ref(self, name: str, data: bytes) -> Ref | CorruptRecord:
        try:
            record = unsealed(data)
            record["recipe"] = Recipe(**record["recipe"])
            ref = Ref(**record)
            require_digest(ref.digest, "its digest")
            own_name = _name_of(ref)
        except (ValueError, KeyError, TypeError, AttributeError, StoreError) as error:
            return CorruptRecord(self._place.where(name), f"not a ref ({error})")
        if own_name != name:
            return CorruptRecord(
                self._place.where(name), f"its recipe has the key {ref.recipe.key}, not the name's"
            )
        self._makers.setdefault(ref.digest, in_words(ref.recipe))
        return ref

    def _parse_head(self, name: str, data: bytes) -> Head | CorruptRecord:
        try:
            head = Head(**unsealed(data))
            own_name = _head_name(head.asset, head.partition)
        except (ValueError, TypeError, AttributeError, StoreError) as error:
            return CorruptRecord(self._place.where(name), f"not a head ({error})")
        if own_name != name:
            return CorruptRecord(
                self._place.where(name),
                f"it is the head of {head.asset!r} and partition {head.partition!r}. If the "
                "filesystem takes capitals and small letters for the same, rename one of the two",
            )
        return head


def _sound(record: Record | CorruptRecord) -> Record:
    if isinstance(record, CorruptRecord):
        raise record
    return record


def is_ref(name: str) -> bool:
    """Whether a ref may lie under `name`; others put files of their own beside them."""
    return is_digest(name.rpartition("/")[2].removesuffix(".json"))


def _ref_bytes(ref: Ref) -> bytes:
    return sealed({**vars(ref), "recipe": ref.recipe.record()})


def in_words(recipe: Recipe) -> str:
    """The asset of a recipe, and its partition if it has one, for messages."""
    return recipe.asset + (f" [{recipe.partition}]" if recipe.partition else "")


def _by_asset(ref: Ref) -> tuple[str, str]:
    return ref.recipe.asset, ref.recipe.partition


def _name_of(ref: Ref) -> str:
    return _ref_name(ref.recipe.asset, ref.recipe.partition, ref.recipe.key)


def _ref_name(asset: str, partition: str, key: str) -> str:
    return f"refs/{_asset_path(asset)}/{path_part(partition)}/{key}.json"


def _head_name(asset: str, partition: str) -> str:
    return f"heads/{_asset_path(asset)}/{path_part(partition)}.json"


def _asset_path(asset: str) -> str:
    # Without dots no folder can be called like one of the files beside it.
    return "/".join(path_part(part).replace(".", "%2E") for part in asset.split("/"))


def path_part(text: str) -> str:
    """A file name for any text; different texts have different names.

    Characters other than ASCII letters, digits and "_.-" become %XX; nothing becomes "_"; a long
    name is cut and ends in "~" and a digest of the text.
    """
    if not text:
        return "_"
    if text in {"_", ".", ".."}:  # the name of nothing, of this folder, of the one above
        return "".join(f"%{ord(character):02X}" for character in text)
    quoted = quote(text, safe="").replace("~", "%7E")
    if len(quoted) > _LONGEST_PART:
        return f"{quoted[: _LONGEST_PART - 40]}~{digest_of(text.encode())[:32]}"
    return quoted
