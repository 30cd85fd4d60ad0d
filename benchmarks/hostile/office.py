"""Sets up an auditor of its own, as its operator would, and becomes ``stagezero audit serve``.

The sealed rows come by standard input; the lab's token leaves by standard output.

    python office.py KEEP TERMS.json SERVE-ARGUMENTS… < sealed.jsonl
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
    keep, given = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    sealed = keep.parent / "sealed.jsonl"
    sealed.touch(0o600)
    sealed.write_text(sys.stdin.read())
    tokens = {name: new_token() for name in ("lab", "rival")}
    with Storage.create(keep, "office", given["slot"]) as held:
        add_suite(held, str(sealed), given["suite"], given["bars"], None, None, lambda _: None, **given["terms"])
        for name, token in tokens.items():
            held.meter.set_token(name, token_hash(token))
    print(json.dumps(tokens), flush=True)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "stagezero.cli", "audit", "serve", str(keep), *sys.argv[3:]])


if __name__ == "__main__":
    main()
