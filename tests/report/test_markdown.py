"""Markdown, read back by a parser of CommonMark with GitHub's tables."""

import pytest
from markdown_it import MarkdownIt

from edgeres.report import markdown, table, words
from report.example import accuracy, built, cell, flip, latency, paired, report, solar

HOSTILE = "a|b`c<script>*d*[e](http://f)#\n| g"


FOLDS = (
    *("Latency", "Accuracy", "Errors by layer", "Precision by layer"),
    *("Environment", "Digests", "Changed answers"),
)


def tokens(text):
    parser = MarkdownIt("commonmark").enable("table")
    for token in parser.parse(text):
        yield token
        yield from token.children or ()


def grids(text):
    """The tables, as rows of the text of their cells."""
    found, inside = [], False
    for token in tokens(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open", "th_close", "td_close"):
            inside = token.type.endswith("open")
        elif inside and token.type == "inline":
            found[-1][-1].append("".join(child.content for child in token.children))
    return found


def hostile():
    return report(
        [
            cell(
                HOSTILE,
                "int8",
                engine=HOSTILE,
                latency=latency(2.0, notes=[HOSTILE]),
                accuracy=accuracy(80, 100),
                properties={HOSTILE: HOSTILE},
            ),
            built(f"x:{HOSTILE}", "int8", message=HOSTILE),
        ],
        name=HOSTILE,
    )


@pytest.mark.parametrize("made", [solar(), hostile()], ids=["solar", "hostile"])
def test_each_value_stands_below_its_heading(made):
    results, *_ = grids(markdown.render(made))
    assert results[0] == [table.COLUMNS[key].heading for key in markdown.KEYS]
    for row, line in zip(table.rows(made), results[1:], strict=True):
        named, *values = [
            table.COLUMNS[key].words(row) if row.has_figures or key == "p50" else table.COLUMNS[key].text(row)
            for key in markdown.KEYS
        ]
        assert line == [" ".join(named.split()).replace("`", "'"), *values]


@pytest.mark.parametrize("made", [solar(), hostile()], ids=["solar", "hostile"])
def test_digests_and_environment_can_be_read_back(made):
    text = markdown.render(made)
    environment, digests = grids(text[text.index("<summary>Environment") :])[:2]
    flat = [" ".join(f"{name}: {value}".split()) for name, value in words.environment(made)]
    assert [f"{name}: {value}" for name, value in environment[1:]] == flat
    assert [value for _, value in digests[1:]] == [value for _, value in words.digests(made)]


@pytest.mark.parametrize("made", [solar(), hostile()], ids=["solar", "hostile"])
def test_only_our_own_html_and_no_links(made):
    found = list(tokens(markdown.render(made)))
    html = "".join(token.content for token in found if token.type in ("html_block", "html_inline"))
    for own in ("<details>", "</details>", "<summary>", "</summary>", "<sub>", "</sub>", *FOLDS):
        html = html.replace(own, "")
    assert html.strip() == ""
    assert not [token for token in found if token.type in ("link_open", "image", "em_open")]


def test_names_survive():
    text = "".join(token.content for token in tokens(markdown.render(hostile())) if token.type == "text")
    assert "a|b`c<script>*d*[e](http://f)# | g" in text


def test_says_verdict_notes_and_digests():
    text = markdown.render(solar())
    verdict = text.split("\n\n")[1]
    assert "openvino:cpu int8 is" in verdict
    assert "Built, not run on this machine: tensorrt-rtx:sm75" in verdict
    assert text.count("needs an NVIDIA GPU") == 1
    assert "`edgeres bench`" in text
    assert solar().model.digest in text
    assert text.count("<details>") == text.count("</details>") == len(FOLDS)
    assert [line[9:-10] for line in text.splitlines() if line.startswith("<summary>")] == list(FOLDS)


@pytest.mark.parametrize(
    ("device", "left_out"),
    [("d", "changed answers"), ("d" * 2000, "lines, latency, accuracy, ")],
    ids=["folds", "table"],
)
def test_it_fits_a_comment_and_its_blocks_are_whole(device, left_out):
    """Many changed answers overflow in what is folded, long names in the table itself."""
    rich = paired(542, 17, 14, flipped=[flip(number, name="é" * 60) for number in range(40)])
    made = report(
        [
            cell(f"runtime:{device}{number}", "int8", latency=latency(2.0, calls=5, notes=["x" * 2000]), accuracy=rich)
            for number in range(40)
        ]
    )
    text = markdown.render(made)
    assert len(text.encode()) <= markdown.LIMIT
    assert text.splitlines()[-1].startswith(f"Left out to fit a comment: {left_out}")
    assert text.count("<details>") == text.count("</details>")
    assert f"runtime:{device}0 int8 takes" in text.split("\n\n")[1]
    results, *_ = grids(text)
    assert all(len(line) == len(markdown.KEYS) for line in results)
    assert "Left out" in [token.content for token in tokens(text) if token.type == "inline"][-1]
