"""Set up an auditor of its own, as its operator would, and become ``stagezero audit serve``.

The sealed rows are read from stdin. The tokens of two labs are written to stdout, as JSON.

    python start_auditor.py AUDITOR-FOLDER TERMS.json SERVE-ARGUMENTS… < sealed.jsonl
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from stagezero.auditor.http_api import new_token, token_hash
from stagezero.auditor.setup import add_suite
from stagezero.auditor.storage import Storage


def main() -> None:
    """Create the auditor, print the tokens and execute the server."""
    folder, settings = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    sealed = folder.parent / "sealed.jsonl"
    sealed.touch(0o600)
    sealed.write_text(sys.stdin.read())
    tokens = {name: new_token() for name in ("lab", "rival")}
    with Storage.create(folder, "office", settings["slot"]) as storage:
        add_suite(storage, str(sealed), settings["suite"], settings["bars"], None, None, lambda _: None, **settings["terms"])
        for name, token in tokens.items():
            storage.meter.set_token(name, token_hash(token))
    print(json.dumps(tokens), flush=True)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "stagezero.cli", "audit", "serve", str(folder), *sys.argv[3:]])


if __name__ == "__main__":
    main()
