"""A document as plain data, and its two forms: one HTML page with everything in it, or Markdown and files."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from urbanwm.markdown import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tone = Literal["good", "plain", "warning", "error", "critical"]
FIGURES: Final = "figures"
"""Folder of the pictures beside the Markdown."""


@dataclass(frozen=True)
class Text:
    """A paragraph; with a tone, a box."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Table:
    """Rows under headings; cells are shown with four significant figures."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Picture:
    """A figure as SVG.

    Attributes:
        name: File name without ending.
        caption: What it shows, also for those who do not see it.
        svg: The picture.
    """

    name: str
    caption: str
    svg: str


Block = Text | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what is under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """A page.

    Attributes:
        title: Heading.
        status: One word, shown as a badge.
        tone: Colour of the badge.
        lead: What a hurried reader must know, one sentence.
        facts: Name and value of the few figures that come first.
        sections: The rest.
    """

    title: str
    status: str
    tone: Tone
    lead: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]

    def pictures(self) -> list[Picture]:
        """Return every picture in its order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Picture)]


def picture(figure: Figure, name: str, caption: str) -> Picture:
    """Turn a figure into a picture; text stays text, and the bytes depend on the content only."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    markup = buffer.getvalue()
    return Picture(name, caption, markup[markup.index("<svg") :])


def to_markdown(document: Document) -> str:
    """Return the document as Markdown; pictures are links into the folder `figures`."""
    lines = [f"# {document.title}", "", f"**{document.status}**: {document.lead}", ""]
    lines += [f"- {name}: {value}" for name, value in document.facts]
    for section in document.sections:
        lines += ["", f"## {section.title}"]
        for block in section.blocks:
            lines += ["", *_markdown_block(block)]
    return "\n".join(lines) + "\n"


def _markdown_block(block: Block) -> list[str]:
    if isinstance(block, Text):
        return [block.text if block.tone == "plain" else f"> **{block.tone}**: {block.text}"]
    if isinstance(block, Picture):
        return [f"![{block.caption}]({FIGURES}/{block.name}.svg)"]
    rows = ["| " + " | ".join(readable(cell) for cell in row) + " |" for row in block.rows]
    return ["| " + " | ".join(block.columns) + " |", "|" + "---|" * len(block.columns), *rows]


STYLE: Final = """
:root { --ink: #1d2733; --soft: #5b6b7c; --line: #dfe5eb; --paper: #fff; --back: #f3f5f8; --blue: #1f6fb2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
header h1 { margin: 0 0 .3rem; font-size: 1.7rem; letter-spacing: -.01em; }
.badge { display: inline-block; padding: .1rem .7rem; border-radius: 1rem; color: #fff; font-size: .85rem; }
.badge { vertical-align: middle; margin-left: .6rem; font-weight: 600; }
.lead { color: var(--soft); font-size: 1.05rem; margin: .3rem 0 1.2rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.4rem, 1fr)); gap: .7rem; }
.facts div, section { background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; }
.facts div { padding: .7rem .9rem; }
.facts b { display: block; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: .82rem; }
section { padding: 1rem 1.2rem 1.2rem; margin-top: 1rem; }
h2 { font-size: 1.1rem; margin: 0 0 .6rem; }
p { margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
th, td { padding: .3rem .8rem .3rem 0; vertical-align: top; }
th.number + th:not(.number), td.number + td:not(.number) { padding-left: .8rem; }
td { border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; white-space: nowrap; }
figure { margin: .6rem 0 0; }
figure svg { width: 100%; height: auto; max-height: 46rem; }
figcaption { color: var(--soft); font-size: .85rem; }
.box { border-left: .3rem solid var(--soft); background: #f7f9fb; padding: .5rem .8rem; margin: .5rem 0; }
.good { --tone: #23804a; } .plain { --tone: #5b6b7c; } .warning { --tone: #a86a00; }
.error { --tone: #c2410c; } .critical { --tone: #b3122f; }
.badge { background: var(--tone); } .box { border-color: var(--tone); }
"""


def to_html(document: Document) -> str:
    """Return the document as one HTML page that needs nothing else: no script, no other file, no network."""
    title = html.escape(document.title)
    facts = "".join(
        f"<div><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>"
        for name, value in document.facts
    )
    sections = "".join(
        f"<section><h2>{html.escape(section.title)}</h2>{''.join(map(_html_block, section.blocks))}</section>"
        for section in document.sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main><header>"
        f'<h1>{title}<span class="badge {document.tone}">{html.escape(document.status)}</span></h1>'
        f'<p class="lead">{html.escape(document.lead)}</p></header>'
        f'<div class="facts">{facts}</div>{sections}</main></body></html>\n'
    )


def _html_block(block: Block) -> str:
    if isinstance(block, Text):
        kind = "" if block.tone == "plain" else f' class="box {block.tone}"'
        return f"<p{kind}>{html.escape(block.text)}</p>"
    if isinstance(block, Picture):
        caption = html.escape(block.caption)
        return f"<figure>{block.svg}<figcaption>{caption}</figcaption></figure>"
    numeric = [
        bool(block.rows) and all(isinstance(row[i], int | float) for row in block.rows)
        for i in range(len(block.columns))
    ]
    kinds = [' class="number"' if number else "" for number in numeric]
    head = "".join(
        f"<th{kind}>{html.escape(name)}</th>" for name, kind in zip(block.columns, kinds, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in block.rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(value: object) -> str:
    """Return a cell, with long words breakable after a slash."""
    return re.sub(r"/", "/<wbr>", html.escape(readable(value)))
