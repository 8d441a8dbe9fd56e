"""Other engines behind the same door: SGLang, vLLM, llama.cpp, or any server that has OpenAI's completions."""

BEGIN_SECONDS = 120.0
"""What a server may take to begin its answer: its queue and the whole prompt lie in between."""
