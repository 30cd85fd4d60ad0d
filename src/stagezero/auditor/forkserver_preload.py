"""What the fork server imports once, so that an examination starts in a moment. It opens nothing of the auditor's."""

import torch
import transformers
from transformers.models.llama import modeling_llama

from stagezero.auditor.process_guard import shut
from stagezero.models import Model, generation

shut()
torch.set_num_threads(1)
_WARM = (transformers.AutoModelForCausalLM, transformers.AutoTokenizer, modeling_llama.LlamaForCausalLM, Model, generation.greedy)
