"""``python -m stagezero.auditor --keep DIR``: an auditor for whoever started it. Address and token go to standard output; it serves until
standard input closes."""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from stagezero.auditor.process_guard import shut
from stagezero.door.messages import SEPARATIONS
from stagezero.errors import StagezeroError

ACCOUNT = "lab"


def main() -> int:
    parser = argparse.ArgumentParser(prog="stagezero.auditor")
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--separation", choices=SEPARATIONS, default="colocated")
    parser.add_argument("--sealed", help="the one sealed file that a boxed lab may name")
    given = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    shut()

    from stagezero.auditor.auditor import Auditor
    from stagezero.auditor.http_api import application, new_token, token_hash
    from stagezero.auditor.storage import LEAST_SLOT, SETTINGS, Storage

    try:
        there = (given.keep / SETTINGS).is_file()
        storage = Storage(given.keep) if there else Storage.create(given.keep, f"embedded-{secrets.token_hex(4)}", LEAST_SLOT)
        auditor = Auditor(storage, given.separation, may_name=None if given.separation == "colocated" else [given.sealed])
    except (StagezeroError, OSError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    token = new_token()
    storage.meter.set_token(ACCOUNT, token_hash(token))
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else every reply waits 40 ms for an acknowledgement
    server = uvicorn.Server(uvicorn.Config(application(auditor, embedded=True), log_level="warning", access_log=False))

    def end_with_the_lab() -> None:
        sys.stdin.read()
        # Whatever was charged is on disk; an audit cut off here is made again when the auditor is next opened.
        auditor.examiner.stop()
        os._exit(0)

    threading.Thread(target=end_with_the_lab, daemon=True).start()
    opened = {"address": f"http://127.0.0.1:{listener.getsockname()[1]}", "token": token, "separation": given.separation}
    print(json.dumps(opened), flush=True)
    server.run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
