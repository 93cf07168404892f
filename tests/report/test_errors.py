"""The diagnosis on a terminal and as a picture: nothing lost at 80 columns, an SVG that is XML whatever the names."""

import re
from collections.abc import Sequence
from io import StringIO
from xml.etree import ElementTree

import pytest
from rich.console import Console

from edgeres.report import errors
from edgeres.types import TensorError

SVG = "{http://www.w3.org/2000/svg}"


def error(
    name: str, position: int, sqnr: float = 30.0, rounding: float = 40.0, outliers: tuple[tuple[int, float], ...] = ()
) -> TensorError:
    return TensorError(name, "inner", position, sqnr, rounding, outliers)


def table(found: Sequence[TensorError], width: int = 80) -> list[str]:
    written = StringIO()
    errors.show(found, Console(file=written, width=width, force_terminal=False))
    return written.getvalue().splitlines()


def drawn(found: Sequence[TensorError]) -> ElementTree.Element:
    return ElementTree.fromstring(errors.svg(found))


def bars(found: Sequence[TensorError]) -> dict[str, tuple[str, float]]:
    """Class and length of the bar beside each name."""
    parts = [part for part in drawn(found) if part.get("class") != "page"]
    labels = {part.get("y"): part.text or "" for part in parts if part.get("text-anchor") == "end"}
    return {
        labels[f"{float(part.attrib['y']) + 10:g}"]: (part.attrib["class"], float(part.attrib["width"]))
        for part in parts
        if part.tag == f"{SVG}rect"
    }


def test_the_table_keeps_the_order_and_rounds_to_tenths() -> None:
    head, _, *rows = table([error("b", 1, 12.345, 40.06, ((7, 23.4), (0, 10.5))), error("a", 0, 55.0, 200.0)])
    assert head.split() == ["tensor", "role", "SQNR", "dB", "own", "dB", "outlier", "channels"]
    assert [row.split() for row in rows] == [
        ["b", "inner", "12.3", "40.1", "7", "(23x),", "0", "(10x)"],
        ["a", "inner", "55.0", "exact"],
    ]


def test_many_outliers_are_counted_and_the_first_three_named() -> None:
    *_, row = table([error("a", 0, outliers=tuple((index, 50.0 - index) for index in range(8)))])
    assert row.endswith("0 (50x), 1 (49x), 2 (48x) and 5 more")


@pytest.mark.parametrize("width", [80, 60])
def test_the_table_folds_and_loses_nothing(width: int) -> None:
    """Names and channels wrap; figures stay whole."""
    names = ["layer3.22.downsample.0.with.a.name.longer.than.any.terminal." + "x" * 40, "[red]markup[/red]"]
    outliers = tuple((index, 1000.0) for index in (2047, 1023, 511, 255))
    rows = table([error(name, position, -3.25, 41.5, outliers) for position, name in enumerate(names)], width)
    assert max(map(len, rows)) <= width
    role, last = rows[0].index("role"), rows[0].index("outlier")
    assert "".join(row[:role].rstrip() for row in rows[2:]) == "".join(names)
    assert [row[role:last].split() for row in rows[2:] if row[role:last].strip()] == [["inner", "-3.2", "41.5"]] * 2
    channels = " ".join(" ".join(row[last:].split()) for row in rows[2:]).split()
    assert channels == ["2047", "(1000x),", "1023", "(1000x),", "511", "(1000x)", "and", "1", "more"] * 2


def test_the_picture_is_xml_and_escapes_names() -> None:
    name = "<script>\"a\" & 'b'</script>"
    root = drawn([error(name, 0), error("b", 1)])
    assert root.tag == f"{SVG}svg"
    assert name in [part.text for part in root.iter(f"{SVG}text")]
    assert not [part for part in root.iter() if part.tag.endswith("script")]
    assert {part.tag.removeprefix(SVG) for part in root} == {"title", "style", "rect", "text"}


def test_bars_stand_in_the_order_of_the_network_as_long_as_their_sqnr() -> None:
    found = [error("c", 2, 10.0), error("a", 0, 20.0), error("b", 1, 40.0)]
    drawn_bars = bars(found)
    assert list(drawn_bars) == ["a", "b", "c"]
    lengths = {name: length for name, (_, length) in drawn_bars.items()}
    assert lengths["b"] == pytest.approx(2 * lengths["a"], abs=0.1)
    assert lengths["a"] == pytest.approx(2 * lengths["c"], abs=0.1)


@pytest.mark.parametrize(("count", "marked"), [(1, 1), (9, 1), (20, 2), (55, 5)])
def test_the_worst_tenth_is_marked(count: int, marked: int) -> None:
    found = bars([error(f"t{index}", index, 20.0 + (index * 7) % count) for index in range(count)])
    worst = [name for name, (kind, _) in found.items() if kind == "worst"]
    assert len(found) == count
    assert sorted(worst) == sorted(f"t{index}" for index in range(count) if (index * 7) % count < marked)


@pytest.mark.parametrize("sqnrs", [[200.0, 200.0], [-12.5, -3.0], [0.0, 0.0], [200.0, 25.0]])
def test_exact_and_lost_tensors_have_bars_inside_the_picture(sqnrs: list[float]) -> None:
    found = [error(f"t{index}", index, sqnr, 200.0) for index, sqnr in enumerate(sqnrs)]
    root = drawn(found)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for kind, length in bars(found).values():
        assert kind in ("bar", "worst")
        assert 0 < length <= width - errors.LABEL
    texts = [part.text for part in root.iter(f"{SVG}text")]
    assert all(("exact" if sqnr == 200 else f"{sqnr:.1f}") in texts for sqnr in sqnrs)
    for part in root.iter(f"{SVG}text"):
        assert 0 < float(part.attrib["y"]) < height


def test_notes_beside_the_longest_bars_stay_inside() -> None:
    """At 7 pixels a character, which is generous for 12 pixels of any sans-serif."""
    found = [error(f"t{index}", index, 99.9, 99.9, ((3, 12.0),) * 2048) for index in range(3)]
    root = drawn(found)
    width = float(root.attrib["viewBox"].split()[2])
    notes = [part for part in root.iter(f"{SVG}text") if part.get("text-anchor") is None]
    assert sum("outliers: 2048" in (part.text or "") for part in notes) == 3
    assert all(float(part.attrib["x"]) + 7 * len(part.text or "") <= width for part in notes)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    digits = colour * 2 if len(colour) == 3 else colour
    parts = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_it_can_be_read_in_light_and_in_dark() -> None:
    style = drawn([error("a", 0)]).find(f"{SVG}style")
    assert style is not None
    light, dark = (style.text or "").split("@media(prefers-color-scheme:dark)")
    pages = []
    for scheme in (light, dark):
        colours = dict(re.findall(r"([\w.]+)\{fill:#(\w+)\}", scheme))
        assert set(colours) == {"text", ".bar", ".worst", "rect.page"}
        pages.append(colours["rect.page"])
        assert contrast(colours["text"], colours["rect.page"]) > 7
        assert contrast(colours[".bar"], colours["rect.page"]) > 3
        assert contrast(colours[".worst"], colours["rect.page"]) > 3
    assert luminance(pages[0]) > 0.9
    assert luminance(pages[1]) < 0.05
