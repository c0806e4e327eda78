"""An engine on a CPU: a small, real transformer over a real paged KV cache, behind OpenAI's API."""
