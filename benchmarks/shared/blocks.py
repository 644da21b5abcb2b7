"""Pages whose tables and pictures come from result files, and Markdown's tables.

Each block lies between the comments `<!-- table: NAME -->`, or `<!-- figure: NAME -->`, and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

BLOCK = re.compile(r"<!-- (\w+: [\w ]+) -->\n(?:.*?)<!-- end -->", re.DOTALL)


def fill(page: str, contents: Mapping[str, str]) -> str:
    """The page with the content of each named block written anew; other blocks stay.

    Args:
        page: Markdown.
        contents: by kind and name, for example "table: step".
    """

    def filled(block: re.Match[str]) -> str:
        name = block[1]
        return f"<!-- {name} -->\n{contents[name]}\n<!-- end -->" if name in contents else block[0]

    return BLOCK.sub(filled, page)


def markdown_table(header: Sequence[str], alignments: str, rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns are aligned by a letter each: l, r or c for the centre."""
    rule = [{"l": "---", "r": "---:", "c": ":---:"}[letter] for letter in alignments]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))
