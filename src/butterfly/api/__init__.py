"""OpenAI's endpoints and vLLM's, over a head."""
