"""What can go wrong in the store, said so that a person can mend it."""

from tda_dagster.errors import TdaError


class StoreError(TdaError):
    """The store was asked for something it cannot do or does not have."""


class DamagedBlob(StoreError):
    """A blob that something refers to cannot be had. `user` says whose it is, in words."""

    def __init__(self, digest: str, path: str, wrong: str, user: str) -> None:
        whose = f"It is {user}" if user else "`tda verify --all` says whose it is"
        super().__init__(
            f"the blob {digest} {wrong}. {whose}. Run the same command again: what is damaged is "
            "made again, and if this command does not make it, `tda verify --all` names the one "
            "that does. Or put the file back from a backup."
        )
        self.digest = digest
        self.path = path


class CorruptArtifact(DamagedBlob):
    """A blob's bytes are not those its name promises; `found` says what they are."""

    def __init__(self, digest: str, path: str, found: str, user: str = "") -> None:
        super().__init__(digest, path, f"is corrupt: {path} holds other bytes ({found})", user)
        self.found = found

    def of(self, user: str) -> "CorruptArtifact":
        """The same error with the words that say whose blob it is."""
        return CorruptArtifact(self.digest, self.path, self.found, user)


class MissingArtifact(DamagedBlob):
    """A blob that something refers to is not in the store."""

    def __init__(self, digest: str, path: str, user: str = "") -> None:
        super().__init__(digest, path, f"is not in the store: there is no {path}", user)

    def of(self, user: str) -> "MissingArtifact":
        """The same error with the words that say whose blob it is."""
        return MissingArtifact(self.digest, self.path, user)


class CorruptRecord(StoreError):
    """A ref or a head is not what the store once wrote there."""

    def __init__(self, path: str, wrong: str) -> None:
        super().__init__(
            f"{path} cannot be used: {wrong}. Delete that file and materialize its asset again."
        )
        self.path = path
