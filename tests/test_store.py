"""Files are whole or not there; sidecars decide what is made again."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres import disk, store
from edgeres.errors import InputError, UsageError
from edgeres.store import Sidecar

SIDECAR = Sidecar("thing", {"source": "abc"}, {"depth": 3, "mean": (0.1, 0.2)}, {"edgeres": "0.1.0"})
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TABLE = st.dictionaries(st.text(max_size=5), PLAIN, max_size=4)


def made(artifact: Path, sidecar: Sidecar = SIDECAR, content: bytes = b"content") -> bool:
    """Whether `store.make` made the artifact, or found it."""
    return store.make(artifact, sidecar, lambda path: path.write_bytes(content) and None).made


def test_versions_tell_what_is_absent() -> None:
    found = store.versions("numpy", "no-such-package-at-all")
    assert found["no-such-package-at-all"] == "absent"
    assert found["numpy"][0].isdigit()


@given(TABLE, TABLE)
def test_the_key_depends_on_the_content_alone(parameters: dict[str, Any], results: dict[str, Any]) -> None:
    sidecar = replace(SIDECAR, parameters=parameters)
    backwards = dict(reversed(parameters.items()))
    assert replace(SIDECAR, parameters=backwards, results=results, digest="d").key == sidecar.key
    read_back = Sidecar(**json.loads(json.dumps(asdict(sidecar))))
    assert read_back.key == sidecar.key


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"inputs": {"source": "abd"}},
        {"inputs": {"other": "abc"}},
        {"parameters": {"depth": 4, "mean": (0.1, 0.2)}},
        {"versions": {"edgeres": "0.1.1"}},
    ],
)
def test_whatever_decides_the_artifact_changes_the_key_and_remakes_it(tmp_path: Path, change: dict[str, Any]) -> None:
    assert replace(SIDECAR, **change).key != SIDECAR.key
    assert made(tmp_path / "thing")
    assert not made(tmp_path / "thing")
    assert made(tmp_path / "thing", replace(SIDECAR, **change))


def test_make_writes_a_sidecar_that_can_be_read_and_verified(tmp_path: Path) -> None:
    artifact = tmp_path / "thing.bin"

    def write(path: Path) -> dict[str, int]:
        path.write_bytes(b"content")
        return {"layers": 3}

    first = store.make(artifact, SIDECAR, write)
    assert (first.path, first.made, dict(first.sidecar.results)) == (artifact, True, {"layers": 3})
    assert first.sidecar.digest == hashlib.sha256(b"content").hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thing.bin", "thing.bin.json"]
    assert store.verify(artifact).key == SIDECAR.key
    again = store.make(artifact, SIDECAR, lambda path: pytest.fail("made again"))
    assert not again.made
    assert again.sidecar.results == {"layers": 3}


@pytest.mark.parametrize(
    "damage",
    [
        lambda artifact: artifact.write_bytes(b"tampered"),
        lambda artifact: artifact.unlink(),
        lambda artifact: store.sidecar_path(artifact).unlink(),
        lambda artifact: store.sidecar_path(artifact).write_text("{"),
        lambda artifact: store.sidecar_path(artifact).write_text("[]"),
        lambda artifact: store.sidecar_path(artifact).write_text('{"kind": "thing"}'),
        lambda artifact: store.sidecar_path(artifact).write_text('{"kind": "thing", "inputs": 1}'),
        lambda artifact: store.sidecar_path(artifact).write_text('{"kind": "thing", "inputs": {}, "author": "me"}'),
    ],
    ids=["tampered", "absent", "no sidecar", "no JSON", "a list", "a key missing", "a wrong type", "an unknown key"],
)
def test_make_mends_what_was_damaged(tmp_path: Path, damage: Any) -> None:
    artifact = tmp_path / "thing"
    made(artifact)
    damage(artifact)
    assert made(artifact)
    assert artifact.read_bytes() == b"content"
    assert not made(artifact)


def test_make_that_fails_keeps_the_old_artifact_and_tries_again(tmp_path: Path) -> None:
    artifact = tmp_path / "thing"
    made(artifact, content=b"old")
    changed = replace(SIDECAR, kind="other")

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise InputError("the source is damaged")

    with pytest.raises(InputError, match="damaged"):
        store.make(artifact, changed, fail)
    assert artifact.read_bytes() == b"old"
    assert store.verify(artifact).key == SIDECAR.key
    assert made(artifact, changed)


def test_a_crash_between_artifact_and_sidecar_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = tmp_path / "thing"
    made(artifact, content=b"old")
    changed = replace(SIDECAR, kind="other")

    def killed(path: Path, value: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(disk, "write_json", killed)
        with pytest.raises(SystemExit):
            made(artifact, changed, b"new")
    assert artifact.read_bytes() == b"new"
    with pytest.raises(InputError, match="is not the file that its sidecar describes"):
        store.verify(artifact)
    assert made(artifact, SIDECAR, b"old")


def test_verify_refuses_what_it_cannot_vouch_for(tmp_path: Path) -> None:
    artifact = tmp_path / "thing"
    with pytest.raises(UsageError, match="cannot be read"):
        store.verify(artifact)
    artifact.write_bytes(b"content")
    with pytest.raises(InputError, match=r"has no sidecar thing\.json"):
        store.verify(artifact)
    made(artifact)
    artifact.write_bytes(b"Content")
    with pytest.raises(InputError, match="is not the file that its sidecar describes"):
        store.verify(artifact)


def test_what_calibrated_is_told_of_the_very_file_alone(tmp_path: Path) -> None:
    """Where the sidecar is absent, older or another file's, nothing is known."""
    path = tmp_path / "thing"
    assert list(store.calibration(path)) == []
    store.make(path, replace(SIDECAR, calibration=("a", "b")), lambda temporary: temporary.write_bytes(b"x") and None)
    assert list(store.calibration(path)) == ["a", "b"]
    stored = disk.read_json(store.sidecar_path(path))
    disk.write_json(store.sidecar_path(path), {key: stored[key] for key in stored if key != "calibration"})
    assert list(store.calibration(path)) == []
    disk.write_json(store.sidecar_path(path), stored)
    path.write_bytes(b"y")
    assert list(store.calibration(path)) == []
