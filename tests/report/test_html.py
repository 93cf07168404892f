"""The HTML report: well formed, self-contained, harmless whatever the names, readable for everybody."""

import base64
import hashlib
import itertools
import re
from html.parser import HTMLParser

import pytest

from edgeres.report import html, sections, words
from edgeres.schema import ClassAccuracy, LayerError, LayerPrecision, Throughput
from report.example import accuracy, built, cell, flip, inside, latency, paired, report, solar, timed, whole

HOSTILE = """x"y'z</script><script>alert(1)</script><img src=http://e.vil onerror=alert(2)>&amp;${name}"""
VOID = {"meta", "link", "br", "img"}


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
                accuracy=paired(
                    80,
                    1,
                    1,
                    images=100,
                    flipped=[
                        flip(0, **dict.fromkeys(("name", "label", "reference", "predicted", "thumbnail"), HOSTILE))
                    ],
                    classes=[ClassAccuracy(name=HOSTILE, images=1, top1=1.0, reference=0.0)],
                    dataset=HOSTILE,
                ),
                properties={HOSTILE: HOSTILE},
                layers=[LayerPrecision(name=HOSTILE, precision=HOSTILE, kernel=HOSTILE, weight_bytes=1)],
                errors=[LayerError(name=HOSTILE, role=HOSTILE, sqnr_db=1.0)],
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


@pytest.fixture(params=EXAMPLES, scope="module")
def page(request):
    return Page(html.render(EXAMPLES[request.param]))


def test_nothing_is_loaded_and_nothing_runs_but_our_own(page):
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form", "video")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("srcset", "style", "xlink:href", "action"), (tag, name)
            if name == "href":
                assert value == "data:," or (tag == "a" and value.startswith("#"))
            if name == "src":
                assert tag == "img"
                assert value.startswith("data:image/jpeg;base64,")
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
    assert all(link["href"].removeprefix("#") in ids for link in page.all("a"))
    names = [tag for tag, _ in page.elements]
    for place, (tag, attributes) in enumerate(page.elements):
        if tag == "svg":
            assert attributes["role"] == "img"
            assert names[place + 1 : place + 3] == ["title", "desc"]
        elif tag == "table":
            assert names[place + 1] == "caption"
        elif tag == "th":
            assert attributes["scope"] in ("col", "row")
        elif tag == "img":
            assert "alt" in attributes
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
    for tag in ("title", "desc", "h1", "h3", "th", "td", "li", "dt", "dd", "time", "span", "caption"):
        assert HOSTILE in page.text(tag), tag


def test_verdict_comes_first_and_says_all():
    text = Page(html.render(solar())).text()
    order = [
        "Verdict",
        "faster than fp32",
        "Built, not run on this machine",
        "Speed against accuracy",
        "Measured engines",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    plain = text.replace("\N{NO-BREAK SPACE}", " ")
    assert all(sentence in plain for sentence in words.verdict(solar()))


def test_slow_calls_that_the_histogram_leaves_out_are_told():
    samples = [*latency(2.0).samples, 500.0]
    made = report([cell("a:b", "int8", latency=timed(samples))])
    assert "slower than the axis, up to 500 ms" in Page(html.render(made)).text("figcaption")


def test_every_picture_up_to_the_limit_and_every_name_in_the_table():
    page = Page(html.render(solar()))
    (few, many) = (cell.accuracy.flipped for cell in solar().cells if cell.accuracy and cell.accuracy.flipped)
    assert len(page.all("img")) == len(few) + sections.PICTURES < len(few) + len(many)
    assert all(flip.name in page.text("th") for flip in many)
    assert "on 31 of 656 images. FP32 is right on 17 of them, int8 on 14, neither on 0." in page.text("p")


def test_what_is_not_there_is_said_and_never_blank(page):
    cells = [(tag, "") for tag, _ in page.elements if tag in ("td", "dd")]
    shown = [data for tag, data in page.texts if tag in ("td", "dd")]
    assert "" not in shown
    assert len(shown) <= len(cells) + page.text("dd").count("✓") + page.text("dd").count("✗")


def test_device_time_and_energy_are_not_available_unless_measured():
    page = Page(html.render(report([cell("a:b", "fp32", latency=latency(2.0))])))
    assert page.text("td").count("not available") >= 3
    page = Page(html.render(report([cell("a:b", "fp32", latency=whole(2.0, device_p50=1.9, energy_mj=77.7))])))
    assert "77.7" in page.text("td")
    assert "1.90" in page.text("td")


def test_throughput_has_a_column_for_each_way():
    ways = [Throughput(batch=b, streams=s, images_per_second=100.0 * b + s) for b, s in ((8, 1), (1, 1), (1, 2))]
    made = report(
        [cell("a:b", "fp32", latency=latency(2.0, throughputs=ways)), cell("a:b", "int8", latency=latency(1))]
    )
    page = Page(html.render(made))
    heads = page.text("th")
    assert heads.index("batch 1batch 1, 2 at oncebatch 8") > 0
    assert "101102801not available" in page.text("td")


def test_the_worst_tensors_stand_first_and_all_are_folded_in():
    made = inside((3, 4, 6, 3))
    page = Page(html.render(report([cell("a:b", "int8", **made)])))
    text = page.text("th")
    worst = sorted(made["errors"], key=lambda error: error.sqnr_db)
    first = text[text.index("place") :]
    assert [first.index(error.name) for error in worst[:8]] == sorted(first.index(error.name) for error in worst[:8])
    assert f"All {len(made['errors'])}" in page.text("summary")
    assert all(f"{error.name}" in text for error in made["errors"])


def test_summands_are_no_worst_tensors():
    """What the ReLU of a sum cuts off is clipped in its summands, on purpose."""
    errors = [
        LayerError(name=name, role=role, sqnr_db=at) for name, role, at in (("s", "shortcut", 4), ("b", "block", 30))
    ]
    made = report([cell("a:b", "int8", errors=errors)])
    page = Page(html.render(made))
    assert "The worst of 2 tensors is b (block)" in page.text("p")
    assert "placebs" in page.text("th")


def test_equal_layers_are_told_once():
    one = inside()
    made = [cell("a:1", "int8", **one), cell("a:2", "int8", **one), cell("b:1", "int8", **inside(seed=9, fc="fp32"))]
    page = Page(html.render(report(made)))
    assert page.text("h3") == 2 * "a:1, 2 (int8)b:1 int8"
    assert "Not in INT8: fc (fp32)." in page.text("p").replace("\N{NO-BREAK SPACE}", " ")


def test_a_big_report_stays_below_a_megabyte():
    rich = {"latency": whole(2.0, calls=20_000), "accuracy": paired(542, 300, 200), **inside((3, 4, 6, 3))}
    made = report([cell(f"a:{device}", "int8", **rich) for device in range(8)])
    assert len(html.render(made).encode()) < 1_000_000


def colours():
    """The custom properties of the light and of the dark scheme."""
    style = html._data("report.css")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    found = {name: dict(re.findall(r"--(\w+): (#\w{6});", block)) for name, block in (("light", light), ("dark", dark))}
    assert found["light"].keys() == found["dark"].keys()
    return found


def luminance(colour):
    """Relative luminance as WCAG 2.2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(scheme, one, other):
    bright, dim = sorted((luminance(colours()[scheme][name]) for name in (one, other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "least"),
    [
        *((text, 4.5) for text in ("ink", "muted", "fp32", "fp16", "int8")),
        *((drawn, 3.0) for drawn in ("focus", "edge", "worst")),
    ],
)
def test_text_and_graphics_have_the_contrast_of_wcag_aa(scheme, ink, least):
    """Success criteria 1.4.3 and 1.4.11."""
    for ground in ("page", "raised"):
        assert contrast(scheme, ink, ground) >= least


def test_every_colour_comes_from_the_scheme_and_nothing_moves():
    style = Page(html.render(solar())).text("style")
    rules = re.sub(r":root \{.*?\}", "", style, flags=re.DOTALL)
    assert not re.search(r"#[0-9a-f]{3,6}\b|rgb|hsl|opacity", rules)
    assert not re.search(r"transition|animation|scroll-behavior", rules)
    assert ":focus-visible { outline:" in style
