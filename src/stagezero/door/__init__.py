"""The door: the messages between the lab and the auditor, and the lab's client for them.

Everything that the lab and the auditor exchange is defined here. The lab, the command line and the
auditor import this package; this package imports neither the lab nor the auditor. It starts the
auditor only as a separate process (``auditor_process``).
"""

from stagezero.door.auditor_process import AuditorEndpoint, EmbeddedAuditor, default_auditor_folder, inherited_endpoint
from stagezero.door.checkpoint_exchange import CheckpointExchange
from stagezero.door.client import Door
from stagezero.door.messages import Receipt, Reply, Setup, Status, Submission, Terms

__all__ = [
    "AuditorEndpoint", "CheckpointExchange", "Door", "EmbeddedAuditor", "Receipt", "Reply", "Setup", "Status", "Submission", "Terms",
    "default_auditor_folder", "inherited_endpoint",
]  # fmt: skip
