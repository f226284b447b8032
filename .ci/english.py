"""Finds English that a native reader would stumble over, in docs, options, messages and comments.

``make lint`` runs it. Each pattern has the words to use instead; add one when a review finds a
phrase that should not come back. Markdown is also checked for lines of 120 columns and more, and
for paragraphs of more than six lines.
"""

import ast
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 119
LINES = 6
PHRASES = {
    r"messed with": "perturbed",
    r"cares? less": "is more robust",
    r"cannot be had": "is not available, cannot be read, cannot be loaded",
    r"(?<!there )\bis no (model|augmentation|measure|side|option|number|file|folder|metric)\b": (
        "is not a …"
    ),
    r"applied as it is alone": "supports only severity=paper",
    r"holds? something without options": "contains an invalid entry",
    r"choose that as well": "requires group=choice",
    r"is not understood": "unknown key; valid keys are …",
    r"\bsays no \w|never guessed": "… is required",
    r"by its name and no list|by their names: ": "neither an image nor a list of images",
    r"choose the encoder's": "use precision=…",
    r"\b(made|makes?|drawn|written)( \w+)? anew\b": "regenerated; again",
    r"for W&B says": "W&B reported",
    r"has not got": "is incomplete, is missing",
    r"so taken from": "reusing results from",
    r"by so much it changes": "precision error: 95 % of cosines differ by at most …",
    r"precision floor": "precision error",
    r"\bWhere it starts\b": "Shift by layer",
    r"\bWhat goes with (it|the shift)": "Correlations with the shift",
    r"^Where to$": "Shift direction",
    r"\bTowards what\b": "Texts gained and lost",
    r"\bWhose gaze\b": "Outlier tokens",
    r"of AlexNet's, %": "relative to AlexNet, %",
    r"ahead of the next": "gap to next",
    r"with pictures alone": "only photos with pictures",
    r"How sure it is": "Uncertainty and caveats",
    r"where embeddings move to|whether that can be undone": "the geometry of the shift",
    r"\bmend(s|ed)? (the )?style": "fix formatting",
    r"Only these two know": "only … may import …",
    r"beyond doubt": "ranks first at the 95 % level",
    r"moves? `?\w+`? most:|of the way to another photo": "shifts … most: relative shift …",
    r"seen from here": "wraps a …",
    r"\bso many first\b": "the number of leading …",
    r"\bsmall talk\b|\blast words\b": "log noise; summary",
    r"push(es)? the same way": "augmentations that share a direction",
}
"""What to look for, and what to write."""
NAMES = {
    "unfit": "load_error",
    "few_at_a_time": "chunked",
    "AT_ONCE": "CHUNK_SIZE",
    "explored": "explorer_data",
    "Keep": "SaveOptions",
    "take_over": "reuse_results",
    "TYPED": "ORIGINAL_ARGV",
    "LEADING": "HEADLINE_MEASURES",
}
"""Identifiers that do not say what they hold, and better ones."""

Text = tuple[int, str]
"""A line's number, and text that begins there."""


def python_texts(source: str) -> Iterator[Text]:
    """Yield the strings of a module, its docstrings and comments."""
    nodes = list(ast.walk(ast.parse(source)))
    joined = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    inner = {id(part) for node in joined for part in node.values}
    for node in joined:
        parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        yield node.lineno, "".join(map(str, parts))
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value
    comment = ""
    start = previous = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            if line != previous + 1:
                yield start, comment
                comment, start = "", line
            comment, previous = f"{comment} {token.string.lstrip('# ')}", line
    yield start, comment


def paragraphs(markdown: str) -> Iterator[Text]:
    """Yield the paragraphs, list items, headings and table cells of a page, without code."""
    code = False
    lines: list[str] = []
    for number, line in enumerate([*markdown.splitlines(), ""], 1):
        if line.lstrip().startswith("```"):
            code = not code
        alone = code or not line.strip() or line.startswith(("#", "|", "<", "```", "    "))
        if alone or re.match(r"\s*([-*]|\d+\.) ", line):
            if lines:
                yield number - len(lines), "\n".join(lines)
            lines = []
        if alone and not code:
            for cell in line.split("|"):
                yield number, cell.strip("# ")
        elif not code:
            lines.append(line)


def wide_lines(markdown: str) -> Iterator[int]:
    """Yield the numbers of lines that are too long; tables and pictures cannot be broken."""
    for number, line in enumerate(markdown.splitlines(), 1):
        if len(line) > WIDTH and not line.startswith(("|", "![")):
            yield number


def texts_of(file: Path) -> Iterator[Text]:
    """Yield all that a person reads in a file."""
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        yield from python_texts(source)
    elif file.suffix == ".md":
        yield from ((n, re.sub(r"`[^`]*`", "`…`", text)) for n, text in paragraphs(source))
    elif file.suffix == ".ipynb":
        cells = (cell for cell in json.loads(source)["cells"] if cell["cell_type"] == "markdown")
        yield from ((1, "".join(cell["source"])) for cell in cells)
    else:
        yield from ((n, line.strip(" #")) for n, line in enumerate(source.splitlines(), 1))


def names_of(file: Path) -> Iterator[Text]:
    """Yield the identifiers of a module that `NAMES` lists."""
    source = file.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string in NAMES:
            yield token.start[0], token.string


def files() -> Iterator[Path]:
    """Yield the files that are checked."""
    kinds = {".md", ".py", ".yaml", ".yml", ".jinja", ".js", ".ipynb"}
    yield from ROOT.glob("*.md")
    for folder in ("clipshift", "conf", "docs", "benchmarks", ".github"):
        yield from (file for file in sorted((ROOT / folder).rglob("*")) if file.suffix in kinds)


def complaints(file: Path) -> Iterator[str]:
    """Yield one line for each phrase, identifier, line or paragraph to change."""
    place = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    for number, text in texts_of(file):
        words = re.sub(r"\s+", " ", text).strip()
        for pattern, better in PHRASES.items():
            if match := re.search(pattern, words):
                yield f"{place}:{number}: “{match[0]}”: write “{better}”"
    if file.suffix == ".py" and "clipshift" in place.parts:
        for number, name in names_of(file):
            yield f"{place}:{number}: `{name}`: name it for what it holds, as `{NAMES[name]}`"
    if file.suffix == ".md":
        source = file.read_text(encoding="utf-8")
        yield from (f"{place}:{n}: more than {WIDTH} columns" for n in wide_lines(source))
        for number, text in paragraphs(source):
            if text.count("\n") >= LINES:
                yield f"{place}:{number}: a paragraph of more than {LINES} lines"


def main() -> None:
    """Print what is to be changed; the exit code is 1 if there is anything."""
    lines = [line for file in files() for line in complaints(file)]
    print("\n".join(lines) or "English: nothing to change")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
