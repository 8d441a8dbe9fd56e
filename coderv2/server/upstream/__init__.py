"""Other engines behind the same door: SGLang, vLLM, llama.cpp, or any server that has OpenAI's completions."""
