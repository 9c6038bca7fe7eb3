"""Engines that an agent can drive, one a folder; `base` is what one must offer.

`emulated` has no model and takes a real one's time, `transformers` runs a Hugging Face model, and
`vllm` is our policy as a scheduler class inside vLLM.
"""
