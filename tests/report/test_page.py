"""The report page: one file that is the same every time, reaches for nothing and runs nothing."""

import base64
import dataclasses
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tda_dagster.report import figures
from tda_dagster.report.listening import SoundError, mp3
from tda_dagster.report.page import (
    CohortReport,
    Influence,
    MethodReport,
    Provenance,
    QueryReport,
    Share,
    Sound,
    Window,
    render_index,
    render_page,
)

RATE = 16_000
HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)> ' onload='alert(1)",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}${7*7}",
    "</style></title><svg onload=alert(1)>",
    "שלום עולם",
    "https://example.org/?a=1&b=2",
)
SPOILERS = "a\u202eb\u2069c\x00d\ud800e"  # an override, an isolate's end, a NUL, half a surrogate


def chord(*frequencies: float, seconds: float = 0.6, rate: int = RATE) -> Sound:
    time = np.arange(int(seconds * rate)) / rate
    waves = [np.sin(2 * np.pi * f * time) / len(frequencies) for f in frequencies]
    return Sound(np.sum(waves, axis=0).astype(np.float32), rate)


def influence(rank: int, text: str, score: float, error: float | None, share: float) -> Influence:
    return Influence(
        rank=rank,
        track_id=f"track-{rank}",
        title=f"Air {rank} {text}",
        artist=f"Band {text}",
        rightsholder=f"Label {rank} {text}",
        composer=f"Composer {text}",
        collection=f"Collection {text}",
        caption=f"Caption {text}",
        licence=f"Licence {text}",
        segment_id=f"track-{rank}:0000",
        start_s=65.2,
        score=score,
        score_se=error,
        share=share,
        sound=chord(220.0 * rank, 330.0 * rank),
        audio_sha256="ab" * 32,
    )


def query(number: int, text: str) -> QueryReport:
    noise = np.random.default_rng(number).normal(0, 2e-4, 200)
    return QueryReport(
        query_id=f"q{number}",
        kind="generated",
        prompt=f"Prompt {number} {text}",
        seed=7,
        seconds=0.6,
        sound=chord(440.0, 550.0),
        influences=(
            influence(1, text, 4.27e-3, 2.0e-4, 0.3),
            influence(2, text, -1.5e-4, None, 0.1),
        ),
        rightsholders=(
            Share("unattributed", 0.6),
            Share(f"Label 2 {text}", 0.1),
            Share(f"Label 1 {text}", 0.3),
        ),
        scores=np.concatenate([noise, [4.27e-3, -1.5e-4]]),
        figures={"heldout_loss_rise": 1.7e-4, "self_influence_rank": 1.0, "odd_one": 2.5},
    )


def report(text: str = "plain") -> CohortReport:
    """One method, two queries; `text` stands in every field that a dataset could fill."""
    config = {"steps": 1, "noise": {"draws": 12, "mode": "shared"}, "note": text}
    picture = figures.spectrogram(chord(440.0).samples, RATE)
    return CohortReport(
        cohort=f"cohort {text}",
        methods=(MethodReport("fim-1", f"FIM {text}", config, (query(1, text), query(2, text))),),
        reconstruction=(("log_mel_distance", 4.2, "dB"),),
        reconstruction_pictures=((f"original {text}", picture),),
        loss_curve=((100, 0.9, None), (200, 0.7, 0.75), (300, 0.6, 0.7)),
        dataset={"tracks": 303, "hours": 0.62, "model": f"model {text}"},
        provenance=Provenance((("dataset/index", "", "cd" * 32, "1"),)),
    )


def long_query(text: str) -> QueryReport:
    """A piece of three windows, a silent one among them, of which only the beginning is heard."""
    windows = (
        Window(0.0, 30.0, True, None, None, None, 1.0),
        Window(30.0, 30.0, False, f"Air 1 {text}", 0.25, f"Label 1 {text}", 0.5),
        Window(60.0, 12.0, False, None, None, None, 1.0),
    )
    found = dataclasses.replace(influence(1, text, 4.27e-3, 2.0e-4, 0.1), window_start_s=30.0)
    return dataclasses.replace(
        query(3, text),
        seconds=72.0,
        scores=np.array([]),
        influences=(found,),
        windows=windows,
    )


@dataclasses.dataclass
class Element:
    tag: str
    attributes: dict[str, str]


class Reader(HTMLParser):
    """The elements and the text of a page; text is what is not inside <style>."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.text = ""
        self.style = ""
        self._styling = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))
        self._styling = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._styling = False

    def handle_data(self, data: str) -> None:
        if self._styling:
            self.style += data
        else:
            self.text += data

    def all(self, tag: str) -> Iterator[dict[str, str]]:
        return (e.attributes for e in self.elements if e.tag == tag)


def test_a_piece_of_several_windows_lists_them() -> None:
    text = " ".join(HOSTILE)
    whole = report(text)
    method = dataclasses.replace(whole.methods[0], queries=(query(1, text), long_query(text)))
    page = Reader(render_page(dataclasses.replace(whole, methods=(method,))))
    words = " ".join(page.text.split())
    assert words.count("each attributed by itself") == 1
    assert "72.0\u00a0s in 3 windows" in page.text
    assert words.count("silent, not attributed") == 1
    assert re.search(r"0:30\s*1:00\s*Air 1", words)
    assert re.search(r"most in the window at\s*0:30", words)
    assert "Only the first 0:01 can be heard" in words
    assert "<script>alert(1)</script>" in words  # as text
    assert not list(page.all("script"))


@pytest.fixture(scope="module")
def hostile() -> str:
    return render_page(report(" ".join(HOSTILE)))


@pytest.fixture(scope="module")
def plain() -> str:
    return render_page(report())


def shuffled(one: CohortReport) -> CohortReport:
    """An equal report whose settings and figures happen to come in another order."""
    (method,) = one.methods
    queries = tuple(
        dataclasses.replace(q, figures=dict(reversed(list(q.figures.items()))))
        for q in method.queries
    )
    config = dict(reversed(list(method.config.items())))
    return dataclasses.replace(
        one, methods=(dataclasses.replace(method, config=config, queries=queries),)
    )


def test_same_report_same_bytes(plain: str) -> None:
    assert render_page(shuffled(report())) == plain


@pytest.mark.parametrize("page", ["plain", "hostile"])
def test_nothing_is_fetched_and_nothing_runs(page: str, request: pytest.FixtureRequest) -> None:
    read = Reader(request.getfixturevalue(page))
    ids = {e.attributes["id"] for e in read.elements if "id" in e.attributes}
    for element in read.elements:
        assert element.tag not in {"script", "iframe", "object", "embed", "form", "base", "svg"}
        for name, value in element.attributes.items():
            assert not name.startswith("on")
            if name == "href" and value.startswith("#"):
                assert value[1:] in ids
            elif name in {"src", "srcset", "href", "poster", "action", "data"}:
                assert value.startswith("data:"), (element.tag, name, value[:80])
    assert not re.search(r"url\(|@import", read.style)
    (policy,) = [m["content"] for m in read.all("meta") if "http-equiv" in m]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_hostile_texts_are_shown_as_they_are(hostile: str) -> None:
    read = Reader(hostile)
    text = " ".join(HOSTILE)
    for field in ("Prompt 1", "Air 1", "Band", "Label 1", "Composer", "Caption", "Licence"):
        assert f"{field} {text}" in read.text


def test_texts_that_would_spoil_the_file_are_mended() -> None:
    page = render_page(report(SPOILERS))
    page.encode()
    assert "abc\ufffdd\ufffde" in page
    assert not re.search("[\x00\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)


def test_everything_is_labelled(plain: str) -> None:
    read = Reader(plain)
    assert all(a["aria-label"].startswith("Play ") for a in read.all("audio"))
    assert all(i["alt"] for i in read.all("img"))
    assert all("scope" in th for th in read.all("th"))
    assert len(list(read.all("table"))) == len(list(read.all("caption")))
    assert {h.tag for h in read.elements} >= {"main", "nav", "header", "h1", "h2", "h3"}


def test_sounds_are_those_of_the_report(plain: str) -> None:
    players = list(Reader(plain).all("audio"))
    assert len(players) == 2 * (1 + 2)
    chords = [(440, 550), (220, 330), (440, 660)] * 2
    for player, notes in zip(players, chords, strict=True):
        encoded = player["src"].removeprefix("data:audio/mpeg;base64,")
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(encoded)))
        assert (rate, len(samples)) == (RATE, int(0.6 * RATE))
        spectrum = np.abs(np.fft.rfft(samples))
        loudest = np.sort(np.argsort(spectrum)[-2:]) * rate / len(samples)
        assert loudest == pytest.approx(notes, abs=3)


def test_numbers_say_what_the_report_says(plain: str) -> None:
    text = Reader(plain).text
    assert "score, ×10⁻³" in text
    assert "4.27 ± 0.20" in text
    assert "−0.150" in text  # no error: three digits
    assert "from 1:05 in the track" in text
    assert text.index("Label 1 plain") < text.index("60.0 %")
    assert "Rank of the piece itself" in text
    assert "odd one" in text
    assert "noise.draws" in text


def test_shares_are_bars_with_nobody_last(plain: str) -> None:
    first = plain.split('<table class="shares">')[1].split("</table>")[0]
    assert re.findall(r'<tr class="(\w+)"', first) == ["named", "named", "nobody"]
    assert re.findall(r"width: ([\d.]+)%", first) == ["30.00", "10.00", "60.00"]


def test_payouts_stand_beside_shares_with_their_intervals() -> None:
    one = report()
    shares = (
        Share("Label 1", 0.3, 0.45, 0.2, 0.7),
        Share("Label 2", 0.1, 0.55),
        Share("unattributed", 0.6),
    )
    answered = dataclasses.replace(one.methods[0].queries[0], rightsholders=shares)
    method = dataclasses.replace(one.methods[0], queries=(answered,))
    page = render_page(dataclasses.replace(one, methods=(method,)))
    table = page.split('<table class="shares">')[1].split("</table>")[0]
    said = " ".join(re.sub(r"<[^>]+>", " ", table).split())
    assert "Label 1 30.0 % 45.0 % 20 to 70&nbsp;%" in said
    assert "Label 2 10.0 % 55.0 % unattributed 60.0 %" in said
    assert said.endswith("unattributed 60.0 %")


def test_many_rightsholders_share_a_bar() -> None:
    one = report()
    shares = (*(Share(f"L{n:02d}", 0.04) for n in range(20)), Share("unattributed", 0.2))
    answered = dataclasses.replace(one.methods[0].queries[0], rightsholders=shares)
    method = dataclasses.replace(one.methods[0], queries=(answered,))
    text = Reader(render_page(dataclasses.replace(one, methods=(method,)))).text
    assert "L09" in text
    assert "L10" not in text
    assert "10 others" in text
    assert "40.0 %" in text


def test_methods_answer_side_by_side() -> None:
    one = report()
    other = dataclasses.replace(one.methods[0], method_id="tf-2", label="Full Fisher")
    read = Reader(render_page(dataclasses.replace(one, methods=(*one.methods, other))))
    assert len(list(read.all("article"))) == 2
    assert read.text.count("Full Fisher: most influential tracks") == 2
    assert len(list(read.all("audio"))) == 2 * (1 + 2 + 2)  # the piece itself only once


def test_an_empty_cohort_still_has_a_page() -> None:
    nothing = CohortReport("empty", (), (), (), (), {}, Provenance(()))
    assert "no attributed pieces yet" in render_page(nothing)


def test_a_query_that_nothing_stands_out_for() -> None:
    one = report()
    blank = dataclasses.replace(
        one.methods[0].queries[0],
        influences=(),
        rightsholders=(Share("unattributed", 1.0),),
        scores=np.zeros(0),
        figures={},
        seed=None,
    )
    method = dataclasses.replace(one.methods[0], queries=(blank,))
    text = Reader(render_page(dataclasses.replace(one, methods=(method,)))).text
    assert "No track stands out" in text
    assert "nobody" in text
    assert "100.0 %" in text


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.zeros((2, 100), np.float32), r"shape \(2, 100\)"),
        (np.zeros(0, np.float32), r"shape \(0,\)"),
        (np.array([0.0, np.nan], np.float32), "1 samples that are not finite"),
    ],
)
def test_a_bad_sound_names_its_query(samples: np.ndarray, said: str) -> None:
    one = report()
    bad = dataclasses.replace(one.methods[0].queries[1], sound=Sound(samples, RATE))
    method = dataclasses.replace(one.methods[0], queries=(one.methods[0].queries[0], bad))
    with pytest.raises(SoundError, match=rf"piece 2, Prompt 2 plain: .*{said}"):
        render_page(dataclasses.replace(one, methods=(method,)))


def test_forty_eight_noisy_sounds_fit_in_eight_megabytes() -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 6 * 22_050).astype(np.float32)
    one = len(mp3(Sound(noise, 22_050))) + len(figures.pitch_spectrogram(noise, 22_050))
    assert 48 * one * 4 / 3 < 8e6


CHROMIUM = Path("/usr/bin/chromium")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium to open a page in")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(hostile: str, tmp_path: Path, width: int) -> None:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install '.[test]'"
    )
    file = tmp_path / "report.html"
    file.write_text(hostile, encoding="utf-8")
    said: list[str] = []
    asked: list[str] = []

    def refuse(dialog: Any) -> None:
        said.append(dialog.message)
        dialog.dismiss()

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=QUIET.split())
        page = browser.new_page(viewport={"width": width, "height": 844})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", refuse)
        page.on("request", lambda sent: asked.append(sent.url))
        page.goto(file.as_uri())
        page.wait_for_function(
            "[...document.querySelectorAll('audio')].every(a => a.readyState >= 1)"
        )
        durations = page.evaluate("[...document.querySelectorAll('audio')].map(a => a.duration)")
        widths = page.evaluate("[...document.images].map(i => i.naturalWidth)")
        overflow = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        browser.close()
    assert said == []
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert [url for url in asked if url.startswith("file:")] == [file.as_uri()]
    assert durations == pytest.approx([0.6] * 6, abs=0.1)
    assert len(widths) > 6
    assert min(widths) > 0
    assert overflow <= 0


def test_the_index_links_to_the_pages_beside_it() -> None:
    text = render_index("Experiments", ["one", "two"])
    assert re.findall(r'<a href="([^"]+)"', text) == ["one.html", "two.html"]
    assert "There is nothing here yet" in render_index("Experiments", [])
