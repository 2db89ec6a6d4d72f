"""What can go wrong in the store, said so that a person can mend it."""

from tda_dagster.errors import TdaError


class StoreError(TdaError):
    """The store was asked for something it cannot do or does not have."""


class CorruptArtifact(StoreError):
    """A blob's bytes are not those its name promises."""

    def __init__(self, digest: str, path: str, found: str) -> None:
        super().__init__(
            f"the blob {digest} is corrupt: {path} holds other bytes ({found}). "
            "Delete that file and materialize again the asset it belongs to (the store's verify() "
            "names it), or put the file back from a backup."
        )
        self.digest = digest
        self.path = path


class MissingArtifact(StoreError):
    """A blob that something refers to is not in the store."""

    def __init__(self, digest: str, path: str) -> None:
        super().__init__(
            f"the blob {digest} is not in the store: there is no {path}. Materialize again the "
            "asset it belongs to, or check that the store's root is the one it was made in."
        )
        self.digest = digest
        self.path = path


class CorruptRecord(StoreError):
    """A ref or a head is not what the store once wrote there."""

    def __init__(self, path: str, wrong: str) -> None:
        super().__init__(
            f"{path} cannot be used: {wrong}. Delete that file and materialize its asset again."
        )
        self.path = path
