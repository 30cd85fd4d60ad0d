"""Models by name, through one loader: pocket models, a packaged LLM, the hub, a folder.

Importing this package does not import torch.
"""

from stagezero.models.checkpoint import checkpoint_digest
from stagezero.models.loader import Model, check_model, home, known_models, materialise

__all__ = ["Model", "check_model", "checkpoint_digest", "home", "known_models", "materialise"]
