"""What a signed statement says of an engine's origin, against the files themselves."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeres import cli, engines, provenance, store
from edgeres.data import open_images
from edgeres.errors import InputError, UsageError
from edgeres.quantization.quantize import quantize
from edgeres.types import Target

pytest.importorskip("cryptography", reason="the extra `sign` is not installed")


@pytest.fixture(scope="module")
def run(
    exported: Path, calibrated: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The files of a run as `edgeres run` lays them out: the engine stands one folder below what it was made from."""
    folder = tmp_path_factory.mktemp("run")
    for source, name in ((exported, "model.onnx"), (calibrated, "model.stats")):
        shutil.copy(source, folder / name)
        shutil.copy(store.sidecar_path(source), store.sidecar_path(folder / name))
    quantized = quantize(
        folder / "model.onnx", folder / "model.stats", folder / "model.int8.onnx", scheme="portable", level="fast"
    ).path
    engine = engines.build(quantized, Target("onnxruntime", "cpu"), folder / "engines" / "x.onnx").path
    (folder / "settings.json").write_text("[]")
    (folder / "settings").write_text("somebody else's")
    return {"model": folder / "model.onnx", "stats": folder / "model.stats", "quantized": quantized, "engine": engine}


def digests(run: dict[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in run.items()}


def dependencies(statement: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    return {one["digest"]["sha256"]: one for one in found}


def test_the_statement_leads_from_the_engine_to_the_checkpoint_and_to_every_image(
    run: dict[str, Path], checkpoint: Path, image_folder: Path
) -> None:
    told, files = provenance.statement(run["engine"]), digests(run)
    assert [subject["name"] for subject in told["subject"]] == ["x.onnx", "x.onnx.json"]
    assert told["subject"][0]["digest"] == {"sha256": files["engine"]}
    definition = told["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["target"] == "onnxruntime:cpu"
    found = dependencies(told)
    steps = {found[files[name]]["annotations"]["kind"] for name in ("quantized", "stats", "model")}
    assert steps == {"quantized", "statistics", "onnx"}
    assert found[files["quantized"]]["annotations"]["parameters"]["scheme"] == "portable"
    assert set(found[files["quantized"]]["annotations"]["madeFrom"].values()) == {files["model"], files["stats"]}
    assert "torch" in found[files["model"]]["annotations"]["versions"]
    weights = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert found[weights] == {"name": "weights", "digest": {"sha256": weights}, "annotations": provenance.UNKNOWN}
    images = {hashlib.sha256(path.read_bytes()).hexdigest() for path in image_folder.rglob("*.*")}
    assert {digest for digest, one in found.items() if one["name"] == "calibration image"} == images
    assert open_images(image_folder).digest in found


def test_the_statement_has_the_fields_that_in_toto_and_slsa_require(run: dict[str, Path]) -> None:
    """https://github.com/in-toto/attestation/blob/main/spec/v1, https://slsa.dev/spec/v1.0/provenance."""
    told = provenance.statement(run["engine"])
    assert (told["_type"], told["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    assert told["predicate"]["buildDefinition"].keys() >= {"buildType", "externalParameters"}
    assert told["predicate"]["runDetails"]["builder"]["id"].startswith("pkg:pypi/edgeres@")
    for resource in (*told["subject"], *dependencies(told).values()):
        assert resource.keys() <= {"name", "uri", "digest", "content", "downloadLocation", "mediaType", "annotations"}
        assert len(bytes.fromhex(resource["digest"]["sha256"])) == 32
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_an_earlier_step_whose_sidecar_is_absent_is_not_known(run: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    alone = tmp_path / "engines" / "x.onnx"
    shutil.copy(run["engine"], alone)
    shutil.copy(store.sidecar_path(run["engine"]), store.sidecar_path(alone))
    found, files = dependencies(provenance.statement(alone)), digests(run)
    assert found[files["quantized"]]["annotations"] == {"origin": "not known"}
    assert files["model"] not in found
    assert sum(one["name"] == "calibration image" for one in found.values()) == 20
    store.sidecar_path(alone).unlink()
    with pytest.raises(InputError, match="not a file that a sidecar beside it describes; make it again, then sign"):
        provenance.statement(alone)
    (run["engine"].parent / "x").touch()
    (run["engine"].parent / "x.json").mkdir()
    assert provenance.statement(run["engine"]), "what is not edgeres' is passed over"
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            provenance.statement(path)


def test_the_commands_make_a_key_sign_and_verify(
    run: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, key = str(run["engine"]), str(tmp_path / "key.pem")
    assert cli.main(["keygen", key]) == 0
    assert cli.main(["sign", engine, "--key", key]) == 0
    assert "x.onnx.intoto.jsonl: signed" in capsys.readouterr().out
    assert cli.main(["verify", engine, "--key", str(tmp_path / "key.pub.pem")]) == 0
    first, *steps, last = capsys.readouterr().out.splitlines()
    assert first == f"{engine}: signed by {tmp_path / 'key.pub.pem'}"
    assert last == "  20 calibration images"
    assert any(line.startswith(f"  model {digests(run)['model'][:12]}: onnx, made by edgeres ") for line in steps)
    assert any(line.startswith("  weights ") and line.endswith(": not known") for line in steps)
    assert cli.main(["verify", engine, "--key", str(tmp_path / "key.pub.pem"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["statement"] == provenance.statement(run["engine"])
    with pytest.raises(UsageError, match="give --key, or set EDGERES_TRUSTED_KEYS"):
        provenance.verify(run["engine"])
