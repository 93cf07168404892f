"""The HTML report: well formed, self-contained, harmless whatever the names, readable for everybody."""

import base64
import hashlib
import itertools
import re
from html.parser import HTMLParser

import pytest

from edgeres.report import html, words
from report.example import accuracy, built, cell, latency, report, solar, timed

HOSTILE = """x"y'z</script><script>alert(1)</script><img src=http://e.vil onerror=alert(2)>&amp;${name}"""
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Elements in order; fails on what is not closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), attrs
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self, *tags):
        return "".join(data for tag, data in self.texts if tag in tags or not tags)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def hostile():
    return report(
        [
            cell(
                f"a:{HOSTILE}",
                "int8",
                scheme=HOSTILE,
                engine=HOSTILE,
                message=HOSTILE,
                latency=latency(2.0, notes=[HOSTILE], stable=False),
                accuracy=accuracy(80, 100, agreement=0.9, flipped=[HOSTILE] * 12, dataset=HOSTILE),
                properties={HOSTILE: HOSTILE},
            ),
            built(f"b:{HOSTILE}", "int8", message=HOSTILE, digest=HOSTILE),
        ],
        name=HOSTILE,
        created=HOSTILE,
        calibration={HOSTILE: HOSTILE, "dataset": HOSTILE},
        rules={HOSTILE: HOSTILE},
    )


EXAMPLES = {
    "solar": solar(),
    "hostile": hostile(),
    "built": report([built("tensorrt-rtx:sm86", "int8")]),
    "empty": report([]),
    "untimed": report([cell("a:b", "int8", accuracy=accuracy(80, 100))]),
    "single": report([cell("a:b", "fp32", latency=latency(2.0, calls=1), accuracy=accuracy(1, 1))]),
}


@pytest.fixture(params=EXAMPLES)
def page(request):
    return Page(html.render(EXAMPLES[request.param]))


def test_nothing_is_loaded_and_nothing_runs_but_our_own(page):
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "form", "a", "video")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "srcset", "style", "xlink:href", "action"), (tag, name)
            if name == "href":
                assert value == "data:,"
    assert len(page.all("script")) == 1
    assert not re.search(r"url\(|@import|https?:", page.text("style") + page.text("script"))


def test_the_policy_names_the_very_style_and_script_of_the_page(page):
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        wanted = base64.b64encode(hashlib.sha256(page.text(tag).encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{wanted}'" in policy


def test_structure_holds(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in page.elements:
        assert attributes.get("aria-labelledby", ids[0]) in ids
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in itertools.pairwise(levels))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert page.all("html")[0]["lang"] == "en"


def test_rows_are_as_long_as_their_heading(page):
    rows = []
    for tag, _ in page.elements:
        if tag == "table":
            rows.append([])
        elif tag == "tr":
            rows[-1].append(0)
        elif tag in ("td", "th"):
            rows[-1][-1] += 1
    assert rows
    for table in rows:
        assert len(set(table)) == 1


def test_hostile_names_are_shown_letter_by_letter():
    page = Page(html.render(hostile()))
    for tag in ("title", "h1", "h3", "th", "td", "li", "dt", "dd", "time"):
        assert HOSTILE in page.text(tag), tag


def test_verdict_comes_first_and_says_all():
    text = Page(html.render(solar())).text()
    order = ["Verdict", "faster than fp32", "Built, not run on this machine", "Results", "Speed against accuracy"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    plain = text.replace("\N{NO-BREAK SPACE}", " ")
    assert all(sentence in plain for sentence in words.verdict(solar()))


def test_slow_calls_that_the_histogram_leaves_out_are_told():
    samples = [*latency(2.0).samples, 500.0]
    made = report([cell("a:b", "int8", latency=timed(samples))])
    assert "slower than the axis, up to 500 ms" in Page(html.render(made)).text("figcaption")


def test_flipped_images_are_ten_and_the_rest_is_counted():
    page = Page(html.render(solar()))
    flipped = solar().cells[3].accuracy.flipped
    assert flipped[9] in page.text("li")
    assert flipped[10] not in page.text("li")
    assert f"and {len(flipped) - 10} more" in page.text("p")


def colours():
    """The custom properties of the light and of the dark scheme."""
    style = Page(html.render(solar())).text("style")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    return {name: dict(re.findall(r"--(\w+): (#\w{6});", block)) for name, block in (("light", light), ("dark", dark))}


def luminance(colour):
    """Relative luminance as WCAG 2.2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ink", ["ink", "muted", "fp32", "fp16", "int8"])
def test_text_has_contrast(scheme, ink):
    for ground in ("page", "raised"):
        bright, dim = sorted((luminance(colours()[scheme][name]) for name in (ink, ground)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5
