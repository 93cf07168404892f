"""Agents, scheduler and client killed at random moments, links cut and slowed: is a result lost, or there twice?

    python tests/faults/fleet.py --runs 100          # as root: each device and the client in a network of its own, TLS
    python tests/faults/fleet.py --runs 3 --loopback # anywhere: what would harm a link halts its process instead

A slowed link has some hundred kbit a second, and drops what waits for longer than a third of a second. In a run a
client sends a file to each of two devices and asks each for some jobs, which take a while and give a random number.
Meanwhile faults come. A client that was killed is started again, and asks for all of it again, as `edgeres run` does.
Then each job must have given one number, the same to all who asked, and the file must be there whole.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

DEVICES, JOBS, SECONDS, SIZE = ("d1", "d2"), 8, 0.6, 6_000_000
NETWORK = "10.217.0"
ROLES = str(Path(__file__).with_name("fleet_roles.py"))
BAD = ("lost", "twice", "files damaged", "parts left", "client failed")
RATES = (100, 2000)
"""Kilobits a second of a slowed link: at least, and at most."""
LIMIT = 300.0
"""Seconds after which what did not come counts as lost."""


@dataclass
class Actor:
    """A process that is started again when it is killed."""

    name: str
    arguments: list[str]
    namespace: str | None
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        inside = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        with self.log.open("ab") as log:
            command = [*inside, sys.executable, ROLES, *self.arguments]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def signal(self, number: signal.Signals) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self.process:
            self.process.wait()


@dataclass
class Stage:
    """Where runs take place: the actors that outlive a run, and how a link is cut."""

    folder: Path
    address: str
    certificates: Path | None
    namespaces: dict[str, str]
    actors: dict[str, Actor] = field(default_factory=dict)

    def own(self, role: str) -> str:
        """The folder of the certificates of a role, "-" where there are none."""
        return str(self.certificates / role if role in DEVICES else self.certificates) if self.certificates else "-"

    def actor(self, name: str, *arguments: str) -> Actor:
        made = Actor(name, [*arguments], self.namespaces.get(name), self.folder / f"{name}.log")
        self.actors[name] = made
        made.start()
        return made

    @contextmanager
    def cut(self, name: str) -> Iterator[None]:
        if space := self.namespaces.get(name):
            _ip("netns", "exec", space, "ip", "link", "set", "eth", "down")
            yield
            _ip("netns", "exec", space, "ip", "link", "set", "eth", "up")
        else:
            with self._halted(name):
                yield

    @contextmanager
    def slowed(self, name: str, rate: int) -> Iterator[None]:
        """Both ways; `rate` in kbit/s."""
        if space := self.namespaces.get(name):
            ends = (["ip", "netns", "exec", space, "tc", "qdisc"], "eth"), (["tc", "qdisc"], space)
            queue = ["root", "tbf", "rate", f"{rate}kbit", "burst", "4kb", "latency", "300ms"]
            for command, end in ends:
                _do(*command, "add", "dev", end, *queue)
            yield
            for command, end in ends:
                _do(*command, "del", "dev", end, "root")
        else:
            with self._halted(name):
                yield

    @contextmanager
    def _halted(self, name: str) -> Iterator[None]:
        self.actors[name].signal(signal.SIGSTOP)
        yield
        self.actors[name].signal(signal.SIGCONT)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _ip(*arguments: str) -> None:
    _do("ip", *arguments)


@contextmanager
def networks(names: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """A namespace for each name, all on one bridge. Ours has the address NETWORK.1, and the other end of each link, by
    the name of its namespace."""
    mark = os.getpid() % 10_000
    made, bridge = {name: f"f{mark}-{name}" for name in names}, f"f{mark}"
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{NETWORK}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, space in enumerate(made.values(), 2):
            _ip("netns", "add", space)
            _ip("link", "add", space, "type", "veth", "peer", "name", "eth", "netns", space)
            _ip("link", "set", space, "master", bridge, "up")
            _ip("-n", space, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth")
            for link in ("lo", "eth"):
                _ip("-n", space, "link", "set", link, "up")
        yield made
    finally:
        for space in made.values():
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)


def run(stage: Stage, number: int) -> Counter[str]:
    """One run with faults; what happened, with what was lost and what was there twice."""
    dice, results = random.Random(number), stage.folder / f"run{number}.jsonl"
    client = stage.actor("client", "client", stage.address, stage.own("client"), str(results), str(number))
    seen: Counter[str] = Counter()
    start, faults = time.monotonic(), sorted(dice.uniform(0.5, 5.0) for _ in range(3))
    while time.monotonic() - start < LIMIT:
        if client.process and client.process.poll() == 0:
            break
        if client.process and client.process.poll() is not None:
            seen["client failed"] += 1
            client.start()
        if faults and time.monotonic() - start > faults[0]:
            faults.pop(0)
            seen[_fault(stage, dice)] += 1
        time.sleep(0.05)
    seen["seconds"] = round(time.monotonic() - start)
    return seen + _verdict(stage, number, results)


def _fault(stage: Stage, dice: random.Random) -> str:
    victim = dice.choice([*DEVICES, "scheduler", "client"])
    kind = dice.choice(["killed", "cut", "slowed"] if victim != "scheduler" else ["killed"])
    what = "device" if victim in DEVICES else victim
    if kind == "killed":
        stage.actors[victim].kill()
        time.sleep(dice.uniform(0, 1))
        stage.actors[victim].start()
        return f"{what} killed"
    with stage.cut(victim) if kind == "cut" else stage.slowed(victim, dice.randint(*RATES)):
        time.sleep(dice.uniform(0.2, 3) if kind == "cut" else dice.uniform(1, 8))
    return f"link of {what} {kind}"


def _verdict(stage: Stage, number: int, results: Path) -> Counter[str]:
    """Held against what the devices have."""
    lines = [json.loads(line) for line in results.read_text().splitlines() if line.endswith("}")]
    given: dict[str, set[str]] = {}
    for line in lines:
        given.setdefault(line["job"], set()).add(line["result"])
    found: Counter[str] = Counter()
    for device in DEVICES:
        for job in range(JOBS):
            name, kept = f"{number}-{device}-{job}", stage.folder / device
            told, made = given.get(name, set()), kept / "runs" / name / "result"
            found["results"] += 1
            found["lost"] += not told or not made.exists()
            found["twice"] += len(told) > 1 or (made.exists() and told != {made.read_text()})
            begun = kept / "runs" / name / "begun"
            found["begun again"] += max(0, len(begun.read_text()) - 1) if begun.exists() else 0
        content = random.Random(f"{number}{device}").randbytes(SIZE)
        digest = hashlib.sha256(content).hexdigest()
        path = stage.folder / device / "objects" / digest[:2] / digest
        found["files"] += 1
        found["files damaged"] += not path.exists() or path.read_bytes() != content
        found["parts left"] += path.with_name(f"{digest}.part").exists()
    return found


@contextmanager
def stage(folder: Path, loopback: bool) -> Iterator[Stage]:
    """Scheduler and devices, running."""
    with networks((*DEVICES, "client")) if not loopback else contextmanager(lambda: iter([{}]))() as namespaces:
        certificates = None
        if not loopback:
            from edgeres.fleet import certificates as step

            certificates = folder / "certificates"
            step.init(certificates)
            for device in DEVICES:
                step.issue(certificates, device)
        address = "tcp://127.0.0.1:8799" if loopback else f"tls://{NETWORK}.1:8799"
        made = Stage(folder, address, certificates, namespaces)
        try:
            made.actor("scheduler", "scheduler", address, made.own("scheduler"))
            for device in DEVICES:
                made.actor(device, "agent", address, made.own(device), device, str(folder / device))
            yield made
        finally:
            for actor in made.actors.values():
                actor.signal(signal.SIGCONT)
                actor.kill()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=100)
    options.add_argument("--first", type=int, default=0, help="The number of the first run, which decides its faults.")
    options.add_argument("--loopback", action="store_true")
    options.add_argument("--folder", type=Path, default=Path("build/faults/fleet"))
    asked = options.parse_args()
    shutil.rmtree(asked.folder, ignore_errors=True)
    asked.folder.mkdir(parents=True)
    total: Counter[str] = Counter()
    with stage(asked.folder.resolve(), asked.loopback) as made:
        for number in range(asked.first, asked.first + asked.runs):
            found = run(made, number)
            total += found
            sys.stdout.write(f"run {number}: {dict(found)}\n")
            sys.stdout.flush()
    for name in BAD:
        total[name] += 0
    sys.stdout.write(f"{asked.runs} runs: {json.dumps(dict(sorted(total.items())))}\n")
    sys.exit(any(total[name] for name in BAD))


if __name__ == "__main__":
    main()
