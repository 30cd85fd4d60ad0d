"""Runs untrusted programs that make a model.

Base, human data, idea and seed go in; one set of tensors comes out. Each module imports only those
above it:

    confinement.py  the types: task, limits and result
    harden.py       restricts its own process (seccomp, Landlock, resource limits), then becomes a
                    command; imports nothing of the package
    runner.py       the program inside a sandbox: runs the code or command and sends its weights;
                    imports nothing of the package
    visible_paths.py the paths and environment variables that every kind of sandbox shows
    commands.py     the parts of command lines that sandboxes and the lab's box share
    supervisor.py   runs a sandboxed program, enforces its limits and receives its weights
    bubblewrap.py   the sandbox: mount, process and network namespaces around one program
    unconfined.py   a program with the user's own rights, in a folder of its own
    landlock.py     the weaker sandbox, which a project must request by name
    broker.py       makes sandboxes for a lab that is itself in a box, where none can be made
    run.py          chooses among them
    lab_box.py      the box around the lab

A program sees read-only system folders, its inputs under ``/in``, and the Python environment
without stagezero, its facts, and models' weights that are stored there. It has no network, an
environment of a few variables, and a /tmp of bounded size. It leaves nothing behind except the
weights that it sends.
"""

from stagezero.isolation.confinement import Confinement, Kind, Limits, RunResult, Task
from stagezero.isolation.run import confine, unavailable_reason

__all__ = ["Confinement", "Kind", "Limits", "RunResult", "Task", "confine", "unavailable_reason"]
