"""The door: messages and client, all that the two wings may say to one another."""

from stagezero.door.auditor_process import EmbeddedAuditor, Opened, default_keep, handed_over
from stagezero.door.checkpoint_exchange import Exchange
from stagezero.door.client import Door
from stagezero.door.messages import Receipt, Reply, Setup, Status, Submission, Terms

__all__ = [
    "Door", "EmbeddedAuditor", "Exchange", "Opened", "Receipt", "Reply", "Setup", "Status", "Submission", "Terms", "default_keep",
    "handed_over",
]  # fmt: skip
