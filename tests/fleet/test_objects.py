"""Files by digest: sent in pieces, resumed, verified, bounded."""

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeres.errors import EdgeresError, InputError
from edgeres.fleet import objects, tasks
from edgeres.fleet.client import Fleet
from edgeres.fleet.objects import Objects

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "RESERVE", 0)


def pieces(size: int) -> list[int]:
    return list(range(0, len(CONTENT), size))


def test_a_file_comes_in_pieces_and_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    kept = Objects(tmp_path)
    assert kept.missing({DIGEST: len(CONTENT)}) == {DIGEST: 0}
    assert kept.put(DIGEST, 0, len(CONTENT), CONTENT[:3000]) == 3000
    assert not kept.path(DIGEST).exists()
    again = Objects(tmp_path)
    assert again.missing({DIGEST: len(CONTENT)}) == {DIGEST: 3000}
    assert again.put(DIGEST, 0, len(CONTENT), CONTENT[:3000]) == 3000, "a retry takes nothing twice"
    assert again.put(DIGEST, 5000, len(CONTENT), CONTENT[5000:]) == 3000, "what does not follow is left"
    assert again.put(DIGEST, 2000, len(CONTENT), CONTENT[2000:]) is None, "what overlaps is cut"
    assert again.whole(DIGEST).read_bytes() == CONTENT
    assert again.missing({DIGEST: len(CONTENT)}) == {}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [DIGEST]


@pytest.mark.parametrize("came", [0, 3000, len(CONTENT) - 1, len(CONTENT)])
@pytest.mark.parametrize("content", [CONTENT, b""])
def test_what_an_agent_left_as_it_died_is_completed(
    came: int, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all of it was written, and the file not given its name."""
    monkeypatch.setenv(tasks.FOLDER, str(tmp_path))
    kept, digest = tasks.objects(), hashlib.sha256(content).hexdigest()
    path = kept.path(digest)
    path.parent.mkdir(parents=True)
    path.with_name(f"{digest}.part").write_bytes(content[:came])
    near = SimpleNamespace(ask=lambda device, task, *given: tasks.value(task(*given)))
    Fleet.send(near, "d1", {digest: content})  # type: ignore[arg-type]
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [path]
    assert path.read_bytes() == content


def test_an_empty_file_is_one(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    assert Objects(tmp_path).put(digest, 0, 0, b"") is None
    assert Objects(tmp_path).whole(digest).read_bytes() == b""


def test_another_file_than_was_named_is_thrown_away(tmp_path: Path) -> None:
    kept = Objects(tmp_path)
    with pytest.raises(InputError, match="damaged"):
        kept.put(DIGEST, 0, len(CONTENT), CONTENT[::-1])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    kept.put(DIGEST, 0, len(CONTENT), CONTENT)
    kept.path(DIGEST).write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match="send it anew"):
        kept.whole(DIGEST)
    assert kept.missing({DIGEST: len(CONTENT)}) == {DIGEST: 0}


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "g" * 64, DIGEST.upper(), DIGEST + "/"])
def test_a_name_that_is_no_digest_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no SHA-256"):
        Objects(tmp_path).put(name, 0, 1, b"x")


def test_the_oldest_make_room_and_what_is_asked_for_stays(tmp_path: Path) -> None:
    kept, digests = Objects(tmp_path, limit=250), []
    for number in range(3):
        content = bytes([number]) * 100
        digests.append(hashlib.sha256(content).hexdigest())
        kept.missing({digests[-1]: 100})
        kept.put(digests[-1], 0, 100, content)
        os.utime(kept.path(digests[-1]), (number, number))
        if number == 1:
            assert kept.held(digests[0]) is None, "asking makes it the youngest"
    assert [kept.path(digest).exists() for digest in digests] == [True, False, True]
    with pytest.raises(EdgeresError, match="no room for 0 MB"):
        kept.missing({"0" * 64: 251})


def test_what_a_job_needs_does_not_make_room_for_the_rest_of_it(tmp_path: Path) -> None:
    kept, contents = Objects(tmp_path, limit=250), [bytes([number]) * 100 for number in range(3)]
    old, half, new = (hashlib.sha256(content).hexdigest() for content in contents)
    kept.put(old, 0, 100, contents[0])
    kept.put(half, 0, 100, contents[1][:60])
    with pytest.raises(EdgeresError, match="agent --space"):
        kept.missing({old: 100, half: 100, new: 100})
    assert kept.path(old).exists(), "nothing goes for what cannot be"
    assert kept.held(half) == 60
    kept.put(new, 0, 100, contents[2])
    os.utime(kept.path(old).parent / old, (0, 0))
    assert kept.missing({old: 100, half: 100}) == {half: 60}
    assert [kept.held(digest) for digest in (old, half, new)] == [None, 60, 0], "the younger went"
