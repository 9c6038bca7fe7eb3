"""A small Llama with random weights and a tokenizer of its own, for tests of real engines.

    python -m tests.engines.tiny_model FOLDER

Nothing is downloaded. Its weights vary enough (`initializer_range`) that greedy outputs differ from
prompt to prompt, so that a mixed-up cache shows.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

VOCABULARY, LONGEST = 4096, 2048
CHAT_TEMPLATE = (
    "{% if mood %}({{ mood }}){% endif %}"
    "{% for message in messages %}{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "<s>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
WORDS = 20_000


def make_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write weights, configuration and tokenizer into `folder`; the same for the same seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_train_tokenizer(seed),
        bos_token="<s>",
        eos_token="</s>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=LONGEST,
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LONGEST,
        initializer_range=0.08,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder.mkdir(parents=True, exist_ok=True)
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _train_tokenizer(seed: int) -> object:
    """Byte-level BPE over made-up words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(made_up(random.Random(seed)), trainer)
    return tokenizer


def made_up(rng: random.Random) -> list[str]:
    """Lines of made-up words, some of them frequent."""
    syllables = [c + v for c in "bcdfghjklmnprstvwz" for v in ("a", "e", "i", "o", "u", "ai", "ou")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 5))) for _ in range(WORDS)]
    return [" ".join(rng.choices(words, k=40)) for _ in range(WORDS // 10)]


if __name__ == "__main__":
    print(make_tiny_model(Path(sys.argv[1])))
