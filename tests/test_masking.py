"""Secrets inside URLs are hidden wherever a URL is shown."""

import time
from pathlib import Path

import polars as pl
import pytest
from chain.conftest import new_study

import assets  # noqa: F401  (declares them)
from tda_dagster.corpus.location import LocationError, read_bytes
from tda_dagster.corpus.rejects import Reject, RejectReason, TooManyRejects, rejects_table
from tda_dagster.errors import TdaError
from tda_dagster.history.settings_text import spoken
from tda_dagster.masking import cut_secrets, masked
from tda_dagster.materialization import STUDY_ASSETS
from tda_dagster.object_storage import ObjectStorageError
from tda_dagster.workspace import Workspace

SECRET = "hunter2"
URLS = [
    f"https://user:{SECRET}@host/a.wav",
    f"https://{SECRET}@host/a.wav",
    f"https://user:p@ss{SECRET}@host:8080/a.wav",
    f"https://user:pa/ss{SECRET}@host/a.wav",
    f"https:/user:{SECRET}@host/a.wav",
    f"ftp://user:{SECRET}@host",
    f"zip://m.csv::https://user:{SECRET}@host/a.zip",
    f"https://host/a.wav?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}%2F2026&x=1",
    f"https://host/a.wav?sv=1&sig={SECRET}%3D",
    f"https://host/a.wav?x=1&token={SECRET}#t=1",
    f"https://host/a.wav#access_token={SECRET}",
    f"https://host/a.wav?x-goog-signature={SECRET};api_key={SECRET}",
    f"https://host/a.wav?PASSWORD={SECRET}",
    f"a.wav?AWSAccessKeyId={SECRET}&Expires=1&Signature={SECRET}",
]


@pytest.mark.parametrize("url", URLS)
def test_secrets_are_masked_in_any_text_and_the_rest_stays(url: str) -> None:
    shown = masked(f"line 3: {url} cannot be read")
    assert SECRET not in shown
    assert "***" in shown
    assert "host" in shown or "a.wav" in shown
    assert shown.startswith("line 3: ")
    assert shown.endswith(" cannot be read")
    assert masked(shown) == shown
    assert masked(f"({url}): no, {url}.").endswith(".")
    assert "): no, " in masked(f"({url}): no, {url}.")


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/a/b@c.wav?version=3&x=1",
        "s3://bucket/mine@home/a=b.wav",
        "zip://m.csv::s3://bucket/a.zip",
        "http://127.0.0.1:80/b@c",
        "mail me@host.example: 1 + 1 = 2",
        "C:/music/a@b.wav",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "text", ["a" * 10**6 + "@=", "a://b:c" * 10**5 + "@", "?a=" + "." * 10**6, "?sig=" * 10**5]
)
def test_long_texts_are_masked_in_no_time(text: str) -> None:
    start = time.monotonic()
    masked(text)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("url", URLS)
def test_errors_and_rejects_show_no_secret(url: str) -> None:
    reject = Reject(1, RejectReason.UNREADABLE, f"{url!r} is broken", "t", url)
    for error in (
        TdaError(f"{url}: no"),
        LocationError(f"no {url}", missing=True),
        ObjectStorageError(url, f"no {url}"),
        TooManyRejects(url, [reject], 1, 0.0),
    ):
        assert SECRET not in str(error)
    table = rejects_table([reject, Reject(2, RejectReason.SILENT, "silent")])
    assert SECRET not in table.write_csv()
    assert table["audio"].to_list()[1] is None


def test_a_driver_that_quotes_the_url_does_not_give_it_away() -> None:
    with pytest.raises(TdaError) as caught:
        read_bytes(f"nosuch://user:{SECRET}@host/a.wav?sig={SECRET}")
    assert SECRET not in str(caught.value)


def test_causes_with_a_secret_are_cut_off_and_others_stay() -> None:
    def raised(cause: str) -> TdaError:
        try:
            try:
                raise OSError(cause)
            except OSError as error:
                raise ValueError("plain") from error
        except ValueError as error:
            outer = TdaError("outer")
            outer.__cause__ = error
            return outer

    harmless = raised("no such host")
    cut_secrets(harmless)
    assert str(harmless.__cause__.__cause__) == "no such host"  # type: ignore[union-attr]
    telling = raised(f"404 for https://host/?sig={SECRET}")
    cut_secrets(telling)
    inner = telling.__cause__
    assert str(inner) == "plain"
    assert (inner.__cause__, inner.__context__) == (None, None)  # type: ignore[union-attr]


def test_recipes_hold_no_secret_and_do_not_change_with_it(tmp_path: Path) -> None:
    study = new_study(tmp_path / "study")

    def recipe(secret: str) -> tuple[str, str]:
        url = f"https://user:{secret}@host/m.csv?X-Amz-Signature={secret}"
        workspace = Workspace(study.root, overrides={"dataset.manifest": url})
        declared = STUDY_ASSETS["dataset/index"]
        made = declared.recipe(workspace.settings, {}, None, workspace)
        return made.key, str(made.config)

    key, config = recipe(SECRET)
    assert SECRET not in config
    assert "***" in config
    assert recipe("another")[0] == key


def test_a_setting_in_words_shows_no_secret() -> None:
    assert SECRET not in spoken(URLS[0])


def test_tracks_of_the_warehouse_show_no_secret(tmp_path: Path) -> None:
    from assets.warehouse import _shown_tracks

    class Index:
        def path(self, name: str) -> Path:
            return tmp_path / name

    frame = pl.DataFrame({"track_id": ["a", "b"], "audio": [URLS[0], "plain.wav"]})
    frame.write_parquet(tmp_path / "tracks.parquet")
    shown = _shown_tracks(Index())["audio"].to_list()  # type: ignore[arg-type]
    assert shown == ["https://***@host/a.wav", "plain.wav"]
