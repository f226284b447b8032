"""The check of English that ``make lint`` runs finds what it is meant to find, and nothing else."""

import importlib.util
from pathlib import Path

import pytest
from support.terminal import ROOT

SPEC = importlib.util.spec_from_file_location("english", ROOT / ".ci" / "english.py")
english = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(english)


def complaints_about(folder: Path, name: str, text: str) -> list[str]:
    (folder / name).write_text(text, encoding="utf-8")
    return [line.removeprefix(f"{folder / name}:") for line in english.complaints(folder / name)]


@pytest.mark.parametrize(
    "sentence",
    [
        "the picture is messed with",
        "a model that cares less",
        "the weights cannot be had any more",
        "this is no augmentation",
        "it can be applied as it is alone",
        "aug holds something without options",
        "comes with a data set: choose that as well",
        "preprocess is not understood (size, mean, std are)",
        "it says no mean, which is never guessed",
        "no image by its name and no list of them either",
        "choose the encoder's by precision=bf16",
        "the figures are made anew",
        "not logged in, for W&B says so",
        "the log has not got all",
        "already measured, so taken from the folder",
        "by so much it changes",
        "Where it starts",
        "What goes with it",
        "Where to",
        "Towards what",
        "Whose gaze",
        "of AlexNet's, %",
        "ahead of the next by",
        "with pictures alone",
        "How sure it is",
        "where embeddings move to, and whether that can be undone",
        "mends the style",
        "Only these two know Hydra",
        "That it leads is beyond doubt",
        "noise moves lite most: 0.94 of the way to another photo",
        "no images by their names: 1 files",
        "A model seen from here",
        "so many first photos",
        "small talk",
        "0 is no side",
        "Who pushes the same way",
    ],
)
def test_phrases_are_found_in_docs_strings_comments_and_options(
    tmp_path: Path, sentence: str
) -> None:
    first, _, rest = sentence.partition(" ")
    files = {
        "page.md": f"# {sentence}\n",
        "strings.py": f'TEXT = (\n    "{first} "\n    "{rest}"\n)\n',
        "comments.py": f"# {sentence}\nX = 1\n",
        "options.yaml": f"# {sentence}\n",
    }
    for name, text in files.items():
        assert any("write “" in line for line in complaints_about(tmp_path, name, text)), text


def test_code_is_not_prose(tmp_path: Path) -> None:
    page = "Run `made anew`.\n\n```sh\nclipshift made anew\n```\n"
    assert complaints_about(tmp_path, "page.md", page) == []


def test_a_sentence_in_pieces_is_one_sentence(tmp_path: Path) -> None:
    module = 'def f(x):\n    """It."""\n    return f"{x}: cannot "\\\n        f"be had"\n'
    (complaint,) = complaints_about(tmp_path, "pieces.py", module)
    assert complaint.startswith("3: “cannot be had”")
    comment = "x = 1\n# it cannot\n# be had\n"
    (complaint,) = complaints_about(tmp_path, "pieces.py", comment)
    assert complaint.startswith("2: “cannot be had”")


def test_lines_and_paragraphs_of_pages_are_short(tmp_path: Path) -> None:
    rows = f"| {'x' * 200} |\n"
    assert complaints_about(tmp_path, "page.md", f"{'x' * 119}\n\n{rows}") == []
    assert complaints_about(tmp_path, "page.md", f"{'x' * 120}\n") == ["1: more than 119 columns"]
    lines = "one line\n" * 6
    assert complaints_about(tmp_path, "page.md", f"{lines}- an item\n") == []
    (complaint,) = complaints_about(tmp_path, "page.md", lines + "another\n")
    assert complaint == "1: a paragraph of more than 6 lines"


def test_the_tables_texts_are_read(tmp_path: Path) -> None:
    (complaint,) = complaints_about(tmp_path, "page.md", "| a | made anew |\n")
    assert complaint.startswith("1: “made anew”")
