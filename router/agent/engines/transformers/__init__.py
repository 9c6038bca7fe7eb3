"""A Hugging Face model under continuous batching, with our policy in its scheduler's place."""
