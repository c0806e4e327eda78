"""Planted bugs that the server clauses catch."""

from __future__ import annotations

from .mutant import Mutant

_WHOLE = '"kv_transfer_params": answers[0][-1].params,'
_STREAMED = 'chunk["kv_transfer_params"] = piece.params'
_GIVEN = "params=request.kv_transfer_params"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        ("SRV-001", "SRV-003", "SRV-012", "SRV-014"),
        "server",
        _WHOLE,
        "",
        "a whole response drops the core's hand-off",
    ),
    Mutant(
        ("SRV-002", "SRV-004", "SRV-015"),
        "server",
        "if index == 0 and piece.params is not None:",
        "if index < 0 and piece.params is not None:",
        "a stream drops the core's hand-off",
    ),
    Mutant(
        ("SRV-003", "SRV-014"),
        "server",
        _WHOLE,
        '"kv_transfer_params": self.form.request is _Completion and answers[0][-1].params,',
        "only completions hand off (vllm-project/vllm#37424)",
    ),
    Mutant(
        ("SRV-004", "SRV-015"),
        "server",
        _STREAMED,
        'chunk["kv_transfer_params"] = self.form.request is _Completion and piece.params',
        "only streamed completions hand off",
    ),
    Mutant(
        ("SRV-005", "SRV-006", "SRV-007", "SRV-008", "SRV-012", "SRV-013"),
        "server",
        _GIVEN,
        "params=None",
        "the request's kv_transfer_params end in the server (vllm-project/vllm#42644)",
    ),
    Mutant(
        ("SRV-006", "SRV-008", "SRV-013"),
        "server",
        _GIVEN,
        "params=None if request.stream else request.kv_transfer_params",
        "a streamed request's kv_transfer_params end in the server",
    ),
    Mutant(
        ("SRV-007", "SRV-008", "SRV-013"),
        "server",
        _GIVEN,
        "params=getattr(request, 'prompt', None) and request.kv_transfer_params",
        "a chat's kv_transfer_params end in the server",
    ),
    Mutant(
        ("SRV-009",),
        "server",
        _GIVEN,
        'params=request.kv_transfer_params or {"do_remote_decode": True}',
        "every request is taken for a prefill",
    ),
    Mutant(
        ("SRV-010", "SRV-011"),
        "server",
        _WHOLE,
        '"kv_transfer_params": vars(_Form).get("last") or setattr(_Form, "last", '
        "answers[0][-1].params) or answers[0][-1].params,",
        "the first hand-off is every response's (sgl-project/sglang#17259)",
    ),
    Mutant(
        ("SRV-012",),
        "server",
        "MAX_BODY_BYTES = 64 << 20",
        "MAX_BODY_BYTES = 16 << 10",
        "a long prompt's hand-off is too large a body",
    ),
    Mutant(
        ("SRV-013",),
        "server",
        "                for _ in range(request.n)\n",
        "                for _ in range(1)\n",
        "n is taken and not heeded (vllm-project/vllm#38900)",
    ),
    Mutant(
        ("SRV-016",),
        "server",
        "    yield first\n",
        "",
        "the first token is lost while the core's refusal is waited for",
    ),
    Mutant(
        ("SRV-016",),
        "server",
        'return {field: {"role": "assistant", "content": text}}',
        'return {field: {"role": "assistant"}}',
        "a chat's text is left out",
    ),
    Mutant(
        ("SRV-017",),
        "server",
        "pieces[-1].finish_reason",
        '"stop"',
        "every whole answer counts as finished (smg-project/smg#2382)",
    ),
    Mutant(
        ("SRV-017",),
        "server",
        '"finish_reason": piece.finish_reason,',
        '"finish_reason": piece.finish_reason and "stop",',
        "every streamed answer counts as finished",
    ),
    Mutant(
        ("SRV-018",),
        "server",
        '        await response.write(b"data: [DONE]\\n\\n")\n',
        "",
        "a stream has no end",
    ),
    Mutant(
        ("SRV-019",),
        "server",
        "usage.completion = sum(map(len, answers))",
        "usage.completion = len(answers)",
        "the usage counts answers",
    ),
    Mutant(
        ("SRV-020",),
        "server",
        "    kv_transfer_params: dict[str, Any] | None = None\n",
        "    kv_transfer_params: Any = None\n",
        "the core gets kv_transfer_params of any type",
    ),
    Mutant(
        ("SRV-021", "SRV-022"),
        "server",
        '    return web.json_response({"error": error}, status=status)',
        '    return web.json_response({"detail": message}, status=status)',
        "errors are worded as a web framework's",
    ),
    Mutant(
        ("SRV-021", "SRV-022", "SRV-023"),
        "server",
        "        except ValueError as error:",
        "        except LookupError as error:",
        "what is refused ends as a server's error page",
    ),
    Mutant(
        ("SRV-022",),
        "server",
        "if request.model not in (None, self.model):",
        "if request.model is None:",
        "any model's name is served",
    ),
    Mutant(
        ("SRV-023",),
        "server",
        "            firsts = await asyncio.gather(*(anext(answer) for answer in answers))\n",
        "            firsts = [Piece('')] * len(answers)\n",
        "the status is sent before the core has taken the request in (vllm-project/vllm#41269)",
    ),
    Mutant(
        ("SRV-024",),
        "server",
        "class _Request(msgspec.Struct):",
        "class _Request(msgspec.Struct, forbid_unknown_fields=True):",
        "a field that the server does not know is an error (vllm-project/vllm#16705)",
    ),
    Mutant(
        ("SRV-025",),
        "server",
        "    content: str | list[_Part] | None = None\n",
        "    content: str | None = None\n",
        "a message's content must be one string",
    ),
    Mutant(
        ("SRV-026",),
        "server",
        "            usage.completion += 1\n",
        "            usage.completion = 1\n",
        "a stream's usage counts one token, whatever came",
    ),
    Mutant(
        ("SRV-026",),
        "server",
        "        if options.include_usage:\n",
        "        if options.include_usage and self.form.prefix == 'cmpl':\n",
        "a chat's stream has no usage",
    ),
    Mutant(
        ("SRV-027",),
        "server",
        '"data": [{"id": model, ',
        '"data": [{"id": "default", ',
        "the list of models has a name of the server's own",
    ),
    Mutant(
        ("SRV-028",),
        "server",
        "        return web.Response()\n",
        "        return web.Response(status=503)\n",
        "an engine is never healthy",
    ),
)
