"""One fork server for all processes of a test session.

A fork server imports TRL, which takes ten seconds. The controller of pytest-xdist starts one, and
the processes of the tests fork their workers from it. It has also made the atlas, which every
worker would make. A command that a test starts without ``MODULE`` has a fork server of its own.
"""

from __future__ import annotations

import multiprocessing.context
import os
import runpy
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any

from stagezero.door import auditor_process

ADDRESS_VARIABLE = "STAGEZERO_TESTS_FORKSERVER"
PRELOAD = ["stagezero.training.executors.worker", "transformers.models.llama.modeling_llama", "shared_forkserver_preload"]

MODULE = (sys.executable, __file__)
"""Runs a module as ``python -m`` does, with this fork server; its name and arguments follow."""


def configure(address: str | None = None) -> None:
    """Use the session's fork server in this process and in the auditors that it starts.

    A process has one fork server. Tests use it for training workers and for examinations, so it
    preloads what both need, whatever the package asks for.

    Args:
        address: the server's address. By default it is read from the environment; if it is absent
            there, this process starts a fork server when it needs one.
    """
    address = address or os.environ.get(ADDRESS_VARIABLE) or None
    forkserver.set_forkserver_preload(PRELOAD)
    _replace(forkserver, "set_forkserver_preload", lambda _: None)
    if address is not None:
        os.environ[ADDRESS_VARIABLE] = address  # for the auditors
        _replace(forkserver._forkserver, "_forkserver_address", address)
        # Sent to every new process. It has no use here, because the controller ends the server.
        _replace(forkserver._forkserver, "_forkserver_alive_fd", os.open(os.devnull, os.O_RDONLY))
        _replace(forkserver._forkserver, "ensure_running", lambda: None)
        _replace(forkserver, "ensure_running", lambda: None)
        _replace(auditor_process, "AUDITOR_COMMAND", (*MODULE, "stagezero.auditor"))


def _replace(owner: Any, name: str, value: object) -> None:
    setattr(owner, name, value)


def start() -> str | None:
    """Start the fork server, unless it runs, and return its address. It ends with this process.

    What its processes write to stderr is discarded: it would appear among the results of the tests.
    From Python 3.14 on, a fork server serves only processes that know its key. Then every process
    has its own, and the address is None.
    """
    if sys.version_info >= (3, 14):
        return None
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        forkserver.ensure_running()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
    address = forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]
    assert isinstance(address, str)
    return address


def process(function: Callable[..., object], *arguments: object) -> multiprocessing.context.ForkServerProcess:
    """Return a new process, not yet started, whose own workers come from the fork server, too."""
    call = (start(), str(os.environ["STAGEZERO_HOME"]), function, arguments)
    return multiprocessing.context.ForkServerProcess(target=_call, args=call)


def _call(address: str | None, home: str, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    os.environ["STAGEZERO_HOME"] = home
    configure(address)
    function(*arguments)


if __name__ == "__main__":
    configure()
    module = sys.argv[1]
    del sys.argv[0]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
