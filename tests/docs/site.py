"""mkdocs' hooks: no link to files that the site has not, and nothing from elsewhere."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#|mailto:)([^)#\s]+)(#[^)]*)?\)")

_LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^>]*>"""
    r"""|<link\b(?![^>]*rel=["']?(?:canonical|next|prev))[^>]*href=["']?(?:https?:)?//[^>]*>"""
)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link that leaves docs/ becomes the text that it has."""
    folder = posixpath.dirname(page.file.src_uri)

    def told(link: re.Match[str]) -> str:
        leads_to = posixpath.normpath(posixpath.join(folder, link[2]))
        return link[1] if leads_to.startswith("../") else link[0]

    return _LINK.sub(told, markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """A page that would load something from another host is an error.

    Raises:
        ValueError: it would; what.
    """
    loaded = _LOADED.search(output)
    if loaded:
        raise ValueError(f"{page.file.src_uri} loads from elsewhere: {loaded[0]}")
    return output
