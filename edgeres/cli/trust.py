"""Commands on who vouches for an engine: keygen, sign, verify."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgeres.cli.common import AsJson, app, show

Artifact = Annotated[Path, typer.Argument(help="An engine, or another file that edgeres made.")]


@app.command()
def keygen(
    out: Annotated[Path, typer.Argument(help="The private key to write (.pem); the public one is .pub.pem beside it.")],
) -> None:
    """Make a pair of Ed25519 keys: the private one signs, machines that run engines get the public one."""
    from edgeres import signature

    public = signature.make_key(out)
    typer.echo(f"{out}: the private key, which stays here\n{public}: the public key, for whoever verifies")


@app.command()
def sign(
    artifact: Artifact,
    key: Annotated[Path, typer.Option("--key", "-k", help="The private key (.pem).")],
    as_json: AsJson = False,
) -> None:
    """Sign a file, its sidecar and all that is known of what it was made from, in NAME.intoto.jsonl beside it."""
    from edgeres import provenance

    out = provenance.sign(artifact, key)
    show(f"{out}: signed", {"out": str(out), "statement": provenance.statement(artifact)}, as_json)


@app.command()
def verify(
    artifact: Artifact,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", "-k", help="Public key (.pem), or a folder of them.", show_default="EDGERES_TRUSTED_KEYS"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that a file and its sidecar are those that were signed, and show what it was made from."""
    from edgeres import provenance

    found = provenance.verify(artifact, key)
    images = sum(one["name"] == provenance.IMAGE for one in found.dependencies)
    lines = [f"{artifact}: signed by {found.key}", *map(_line, found.dependencies[: len(found.dependencies) - images])]
    lines += [f"  {images} calibration images"] if images else []
    show("\n".join(lines), {"key": str(found.key), "statement": dict(found.statement)}, as_json)


def _line(dependency: dict[str, Any]) -> str:
    told = dependency["annotations"]
    versions = ", ".join(f"{package} {version}" for package, version in told.get("versions", {}).items())
    kind = f"{told['kind']}, made by {versions}" if "kind" in told else told["origin"]
    return f"  {dependency['name']} {dependency['digest']['sha256'][:12]}: {kind}"
