"""What the site of the guides needs beyond Markdown: formulas as MathML, which browsers draw themselves."""

from __future__ import annotations

from typing import Any

import latex2mathml.converter


def on_config(config: Any) -> Any:
    """Blocks of ``math``, which GitHub draws too, go through latex2mathml."""
    fence = {"name": "math", "class": "math", "format": format_math}
    config["mdx_configs"].setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def format_math(source: str, *_: Any, **__: Any) -> str:
    """LaTeX to a MathML block, a line of the source (ended by two backslashes) below the other."""
    lines = [line.strip() for line in source.split(r"\\") if line.strip()]
    return "".join(f'<div class="math">{latex2mathml.converter.convert(line, display="block")}</div>' for line in lines)
