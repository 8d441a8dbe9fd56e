"""Text in and out: tokenizer, chat template, fill-in-the-middle prompt, safe streaming. Floor 1: no torch."""
