"""An agent at the other end of an SSH connection: it says on which port it will listen, is told the rest on its
standard input, and ends when that does, with all that it started."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from edgeres import locks
from edgeres.fleet import agent
from edgeres.fleet.address import Address

PORT = "edgeres agent, port "
"""What it says first: whoever asked for it may be told other things by the device's shell before."""


def main() -> None:
    if os.getpgrp() != os.getpid():
        os.setpgrp()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        sys.stdout.write(f"{PORT}{free.getsockname()[1]}\n")
    sys.stdout.flush()
    told = json.loads(sys.stdin.readline())
    with locks.scratch() as folder:
        threading.Thread(target=_end_with_input, args=(folder,), daemon=True).start()
        files: dict[str, str] = told["certificates"]
        for name, content in files.items():
            (folder / Path(name).name).write_text(content, encoding="ascii")
        asyncio.run(_serve(told, folder if files else None))


def _end_with_input(folder: Path) -> None:
    sys.stdin.read()
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


async def _serve(told: dict[str, Any], certificates: Path | None) -> None:
    """An agent until its scheduler is gone; whoever started it starts it again."""
    trusted = agent.security(Address.parse(told["scheduler"]), certificates, "worker")
    made = agent.worker(agent.dask(), told["scheduler"], told["name"], trusted, told["listen"])
    made.contact_address = told["contact"]
    async with made:
        await made.finished()


if __name__ == "__main__":
    main()
