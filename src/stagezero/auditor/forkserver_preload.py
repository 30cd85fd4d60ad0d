"""Imports that the fork server makes once, so that each examination starts quickly.

``Examiner`` names this module as the preload. It must open none of the auditor's files.
"""

import torch
import transformers
from transformers.models.llama import modeling_llama

from stagezero.auditor.separation import protect_process
from stagezero.models import Model, generation

protect_process()
torch.set_num_threads(1)
_PRELOADED = (transformers.AutoModelForCausalLM, transformers.AutoTokenizer, modeling_llama.LlamaForCausalLM, Model, generation.greedy)
