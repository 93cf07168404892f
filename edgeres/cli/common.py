"""What the commands share: the app, their usual options, how they show a result and their progress."""

import json
import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeres.errors import UsageError

OK, REGRESSED, USAGE, FAILED, INCONCLUSIVE, BUG, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 4, 70, 130, 141

app = typer.Typer(
    help="A trained ResNet goes in; a verified INT8 engine for every device comes out, with a receipt.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[Path, typer.Argument(help="An ONNX file, as `edgeres export` writes it.")]
Engine = Annotated[Path, typer.Argument(help="An engine that `edgeres build` wrote, or an ONNX file.")]
TargetName = Annotated[str, typer.Option("--target", "-t", help="backend:device; see `edgeres targets`.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]
Images = Annotated[Path, typer.Option("--data", "-d", help="Folder of images, manifest (.csv) or .npz.")]
Samples = Annotated[int | None, typer.Option(min=1, help="Draw this many of the images.", show_default="all")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads.", show_default="the runtime's")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def show(text: str, values: dict[str, Any], as_json: bool) -> None:
    say(json.dumps(values, indent=2) if as_json else text)


def say(text: str) -> None:
    """Names in it come from files: none reaches a terminal as it is."""
    from edgeres.figures import plain

    typer.echo(plain(text))


def folded(lines: Iterable[str]) -> str:
    """Sentences, none wider than the terminal, or 80 columns where there is none; what goes on is indented."""
    width = max(shutil.get_terminal_size().columns, 20)
    return "\n".join(textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False) for line in lines)


def check_name(out: Path, suffix: str) -> None:
    """UsageError where a file to write is not named as the other steps expect it."""
    if out.suffix != suffix:
        raise UsageError(f"{out} is not named {suffix}; name it {out.with_suffix(suffix).name}.")


def unchanged(made: Any) -> str:
    return "" if made.made else " (unchanged)"


def progress() -> Any:
    from edgeres.progress import Terminal

    return Terminal()
