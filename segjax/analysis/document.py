"""A document of headings, texts, tables and figures, as Markdown or as one HTML page."""

from __future__ import annotations

import base64
import dataclasses
import html
import re


@dataclasses.dataclass
class Document:
  """Blocks of a report, in order; rendered as Markdown or HTML.

  Attributes:
    title: of the report.
    blocks: ("heading" | "answer" | "text", text), ("table", (header, rows)),
      ("figure", (file, caption)).
  """

  title: str
  blocks: list = dataclasses.field(default_factory=list)

  def heading(self, text):
    """A section."""
    self.blocks.append(("heading", text))

  def text(self, text):
    """A paragraph."""
    self.blocks.append(("text", text))

  def answer(self, text):
    """The sentence that a reader in a hurry looks for."""
    self.blocks.append(("answer", text))

  def table(self, header, rows):
    """A table of strings; its first column names the rows."""
    self.blocks.append(("table", (header, rows)))

  def figure(self, file, caption):
    """A PNG file with its caption."""
    self.blocks.append(("figure", (file, caption)))

  def markdown(self, folder):
    """Text of a Markdown file in `folder`; figures are linked."""
    lines = [f"# {_plain(self.title)}", ""]
    for kind, value in self.blocks:
      if kind == "heading":
        lines += [f"## {_plain(value)}", ""]
      elif kind == "text":
        lines += [_plain(value), ""]
      elif kind == "answer":
        lines += [f"**{_plain(value)}**", ""]
      elif kind == "table":
        header, rows = value
        escaped = [[_plain(c).replace("|", "\\|") for c in row] for row in [header, *rows]]
        lines += ["| " + " | ".join(row) + " |" for row in escaped]
        lines.insert(len(lines) - len(rows), "|" + "---|" * len(header))
        lines.append("")
      else:
        file, caption = value[0], _plain(value[1])
        lines += [f"![{caption}]({file.relative_to(folder).as_posix()})", "", f"*{caption}*", ""]
    return "\n".join(lines)

  def html(self):
    """Text of an HTML page with everything in it."""
    parts = [_HEAD.format(title=html.escape(self.title)), f"<h1>{html.escape(self.title)}</h1>"]
    for kind, value in self.blocks:
      if kind == "heading":
        parts.append(f"<h2>{html.escape(value)}</h2>")
      elif kind == "text":
        parts.append(f"<p>{html.escape(value)}</p>")
      elif kind == "answer":
        parts.append(f"<p class='answer'>{html.escape(value)}</p>")
      elif kind == "table":
        header, rows = value
        breaks = len(header) > 10  # or a page of 1280 pixels is too narrow
        cells = "".join(f"<th>{html.escape(str(c))}</th>" for c in header)
        body = "".join(
          "<tr>" + "".join(f"<td>{_cell(str(c), breaks)}</td>" for c in row) + "</tr>"
          for row in rows
        )
        parts.append(f"<div class='wide'><table><tr>{cells}</tr>{body}</table></div>")
      else:
        file, caption = value
        data = base64.b64encode(file.read_bytes()).decode()
        text = html.escape(caption)
        parts.append(
          f"<figure><img alt='{text}' src='data:image/png;base64,{data}'>"
          f"<figcaption>{text}</figcaption></figure>"
        )
    return "\n".join([*parts, "</body></html>", ""])


def _plain(text):
  """On one line, without HTML, which Markdown takes as it is, and without links and pictures.

  >>> _plain("a <b>\\n&lt; 3 < 4 & 5")
  'a &lt;b> &amp;lt; 3 &lt; 4 & 5'
  >>> print(_plain("![x](http://y)"))
  ![x]\\(http://y)
  """
  text = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(str(text).split("\n")))
  return text.replace("<", "&lt;").replace("](", "]\\(")


def _cell(text, breaks):
  """Escaped; a value may break before its deviation or not, a list after its commas."""
  text = html.escape(text).replace(" ± ", " ±&nbsp;" if breaks else "&nbsp;±&nbsp;")
  return re.sub(r",(?=[A-Za-z])", ",<wbr>", text)


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; }}
p, figcaption {{ max-width: 48em; }}
.answer {{ border-left: 4px solid #0072B2; padding: 0.5em 1em; background: #eef5fa; }}
.answer {{ font-size: 17px; }}
table {{ border-collapse: collapse; margin: 1em 0; font-size: 13px; }}
th, td {{ border-bottom: 1px solid #ccc; padding: 4px 8px; text-align: left; }}
td {{ vertical-align: top; }}
td {{ font-variant-numeric: tabular-nums; }}
th {{ border-bottom: 2px solid #555; vertical-align: bottom; }}
.wide {{ overflow-x: auto; }}
.wide th:first-child, .wide td:first-child {{ position: sticky; left: 0; background: white; }}
figure {{ margin: 1.5em 0; }} img {{ max-width: 100%; }} figcaption {{ color: #555; }}
</style></head><body>"""
