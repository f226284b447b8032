"""The report of a budget: its table in the terminal, in Markdown, and as JUnit's XML."""

from pathlib import Path
from xml.etree import ElementTree

from clipshift.comparison.budget import FAIL, KEYS, PASS, Judgement, sentence
from clipshift.report.tables import Column, markdown_table
from clipshift.report.terminal import make_console, print_table
from clipshift.results.files import write_whole

COLUMNS = [Column(name, name) for name in ("verdict", *KEYS, "allowed", "decision")]
COLUMNS.insert(4, Column("mean or change", "value", "ci", ".4f"))


def report_budget(judgement: Judgement, folder: Path) -> None:
    """Print a budget's table, and write it to ``budget.md`` and ``budget.xml``.

    Args:
        judgement: From `clipshift.comparison.budget.judge`.
        folder: Where the files go.
    """
    [verdict, *others], table = str(judgement).splitlines(), judgement.table
    rows = [[c.head for c in COLUMNS], *zip(*(c.texts(table) for c in COLUMNS), strict=True)]
    print_table(make_console(), verdict, [row[:-1] for row in rows])
    print(*others, sep="\n")
    cells = [[cell.replace("|", "&#124;") for cell in row] for row in rows]
    text = f"### clipshift, {verdict}\n\n{markdown_table(cells, ['---'] * len(COLUMNS))}"
    write_whole(folder / "budget.md", lambda file: file.write_text(text, encoding="utf-8"))
    suite = ElementTree.Element("testsuite", name="clipshift budget", tests=f"{len(rows) - 1}")
    for row in table.itertuples():
        of = {"classname": row.measure, "name": f"{row.augmentation} {row.severity} {row.allowed}"}
        case = ElementTree.SubElement(suite, "testcase", of)
        if row.verdict != PASS:
            kind = "failure" if row.verdict == FAIL else "skipped"
            ElementTree.SubElement(case, kind, message=sentence(row))
    tree = ElementTree.ElementTree(suite)
    write_whole(folder / "budget.xml", lambda file: tree.write(file, "utf-8", True))
