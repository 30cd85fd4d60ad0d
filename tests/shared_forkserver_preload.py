"""What the shared fork server does once, so that no process forked from it needs the time.

It makes the atlas and its pools of items, and loads a model, because Transformers prepares tables
when it loads its first one.
"""

import tempfile

from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from stagezero.tasks import load_suite

_SUITE = load_suite("atlas")
_PRELOADED = (_SUITE.digest(), _SUITE.train_items())
with tempfile.TemporaryDirectory() as _folder:
    _SIZE = LlamaConfig(vocab_size=4, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    LlamaForCausalLM(_SIZE).save_pretrained(_folder)
    AutoModelForCausalLM.from_pretrained(_folder)
