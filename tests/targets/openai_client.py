"""``python openai_client.py URL REQUESTS TOKENS``: the openai package, streamed and not.

Runs in the clients' environment. Looks at what load generators do not: that each stream ends with a
finish reason and has its usage.
"""

from __future__ import annotations

import asyncio
import json
import sys

from openai import AsyncOpenAI


async def chat(client: AsyncOpenAI, number: int, tokens: int) -> int:
    """Tokens of a streamed chat."""
    stream = await client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": f"say {number}"}],
        max_completion_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    reason, usage = None, None
    async for chunk in stream:
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
        usage = chunk.usage or usage
    assert reason == "length", f"the stream ended with {reason}"
    assert usage is not None, "the stream had no usage"
    return usage.completion_tokens


async def completion(client: AsyncOpenAI, number: int, tokens: int) -> int:
    """Tokens of a completion, not streamed."""
    answer = await client.completions.create(
        model="m", prompt=f"count to {number}", max_tokens=tokens
    )
    assert answer.choices[0].finish_reason == "length"
    return answer.usage.completion_tokens


async def main(url: str, requests: int, tokens: int) -> None:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == ["m"]
        asks = [
            (chat if number % 2 else completion)(client, number, tokens)
            for number in range(requests)
        ]
        got = await asyncio.gather(*asks)
    print(json.dumps({"requests": len(got), "tokens": sum(got)}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
