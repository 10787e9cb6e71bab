"""LaTeX source to readable text: prose unwrapped, headings as Markdown, mathematics left as it was written.

A reader of source, no TeX: macros are not expanded and other files (\\input) are not followed.
"""

from __future__ import annotations

import re

from kmcli.ingest import plain
from kmcli.ingest.limits import Limits
from kmcli.ingest.text import Extract, clean
from kmcli.types import Reporter

_HEADINGS = {
    "title": "#", "part": "#", "chapter": "#", "section": "##", "subsection": "###",
    "subsubsection": "####", "paragraph": "#####", "subparagraph": "######",
}  # fmt: skip
# fmt: off
_DROPPED = frozenset((
    "label", "ref", "eqref", "pageref", "autoref", "cref", "Cref", "nameref", "vref", "cite", "citet", "citep",
    "citealt", "citealp", "citeauthor", "citeyear", "nocite", "parencite", "textcite", "autocite", "footcite",
    "includegraphics", "bibliography", "bibliographystyle", "addbibresource", "input", "include", "usepackage",
    "documentclass", "vspace", "hspace", "vskip", "hskip", "pagestyle", "thispagestyle", "pagenumbering",
    "index", "glsadd", "setlength", "addtolength", "setcounter", "addtocounter", "newcommand", "renewcommand",
    "providecommand", "DeclareMathOperator", "newtheorem", "newenvironment", "def", "hypersetup", "thanks",
    "date", "color", "definecolor", "cline", "cmidrule", "rule", "phantom", "hphantom", "vphantom",
))
# fmt: on
"""Commands whose arguments are no prose."""
_LAST_ONLY = frozenset((
    "href", "textcolor", "colorbox", "parbox", "multicolumn", "multirow", "resizebox", "scalebox", "raisebox",
    "makebox",
))  # fmt: skip
"""Commands of which only the last argument is prose."""
_BLOCKS = frozenset(("caption", "author"))
_LETTERS = {"ss": "ß", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å", "AA": "Å", "o": "ø", "O": "Ø", "l": "ł",
            "L": "Ł", "i": "ı", "j": "ȷ"}  # fmt: skip
_SYMBOLS = {"ldots": "…", "dots": "…", "LaTeX": "LaTeX", "TeX": "TeX", "BibTeX": "BibTeX", "S": "§", "P": "¶",
            "copyright": "©", "pounds": "£", "euro": "€", "textbackslash": "\\", "textasciitilde": "~",
            "textasciicircum": "^", "textbar": "|", "textless": "<", "textgreater": ">", "textquotesingle": "'",
            "textendash": "–", "textemdash": "—", "textdegree": "°", "degree": "°", "par": "\n\n", "newline": "\n",
            "quad": " ", "qquad": " ", "newpage": "\n\n", "clearpage": "\n\n", "bigskip": "\n\n", "medskip": "\n\n",
            "smallskip": "\n\n", "and": ", "}  # fmt: skip
_ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304", ".": "\u0307",
            "c": "\u0327", "v": "\u030c", "H": "\u030b", "u": "\u0306", "k": "\u0328", "r": "\u030a",
            "d": "\u0323"}  # fmt: skip
_SPACES = dict.fromkeys(",;:", " ") | dict.fromkeys("!/-@", "")

_VERBATIM = re.compile(
    r"\\begin\{(verbatim|lstlisting|minted|Verbatim)\*?\}(?:\[[^\]\n]*\])?(?:\{\w*\})?(.*?)\\end\{\1\*?\}", re.DOTALL
)
_VERB = re.compile(r"\\verb\*?([^\w\s*])(.*?)\1")
_COMMENT_LINE = re.compile(r"^[ \t]*%.*\n?", re.MULTILINE)
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%.*(?:\n[ \t]*(?=\S))?")
_NO_PROSE = re.compile(
    r"\\begin\{(comment|tikzpicture|thebibliography|filecontents|picture)\*?\}.*?\\end\{\1\*?\}", re.DOTALL
)
_RULE = re.compile(r"[ \t]*\\(?:hline|toprule|midrule|bottomrule)(?![A-Za-z])\n?")
_MATH = re.compile(
    r"""\\\\ | \\[$%{}&\#_]                                                     # escapes come first: no mathematics
    | (?P<math> \$\$ (?:\\.|[^$\\])+ \$\$
      | \$ (?:\\.|[^$\\\n]|\n(?![ \t]*\n))+ \$
      | \\\[ .{0,9999}? \\\] | \\\( .{0,9999}? \\\)
      | \\begin\{(?P<env>equation|align|alignat|flalign|gather|multline|eqnarray|displaymath|math)(?P<star>\*?)\}
        .{0,9999}? \\end\{(?P=env)(?P=star)\} )""",
    re.DOTALL | re.VERBOSE,
)
_ACCENT = re.compile(r"""\\(?:(['`^"~=.])[ ]?|([cvHukrd])(?=\{|[ ]))(?:\{[ ]?\\?([A-Za-zıȷ])\}|[ ]?\\?([A-Za-zıȷ]))""")
_LETTER = re.compile(r"\\(" + "|".join(_LETTERS) + r")(?![A-Za-z])(?:\{\}|[ ]+(?=\w))?")
_SYMBOL = re.compile(r"\\(" + "|".join(_SYMBOLS) + r")(?![A-Za-z])(?:\{\})?")
_ESCAPE = re.compile(r"\\\\\*?(?:\[[^\]\n]{0,20}\])?(?:[ \t]*\n(?![ \t]*\n))?|\\([^A-Za-z])|([&~])", re.DOTALL)
_ITEM = re.compile(r"\s*\\item(?![A-Za-z])[ \t]*(?:\[([^\]\n]{0,200})\])?[ \t]*")
_ENVIRONMENT = re.compile(
    r"\\begin\{(?:tabular|tabularx|longtable|array|minipage|multicols|wrapfigure|wraptable|adjustbox)\*?\}"
    r"(?:\[[^\]\n]*\]|\{(?:[^{}]|\{[^{}]*\})*\})*"
    r"|\\begin\{\w+\*?\}(?:\[[^\]\n]*\])?|\\end\{\w+\*?\}"
)
_COMMAND = re.compile(r"(?:\\([A-Za-z]+)\*?(?:\[[^\]\n]{0,200}\])*)?((?:\{[^{}]*\}){1,9})(?:\[[^\]\n]{0,200}\])*(?!\{)")
_OPEN, _CLOSE, _BRACE_OPEN, _BRACE_CLOSE, _BACKSLASH = "\ue000", "\ue001", "\ue002", "\ue003", "\ue004"
_MAX_DEPTH = 50
"""Of nested braces; deeper ones are unwrapped without a look at their command."""


def read(data: bytes, name: str, report: Reporter, limits: Limits) -> Extract:
    return Extract(clean(to_text(plain.decode(data, name))))


def to_text(source: str) -> str:
    """The prose of a LaTeX source. Text that is no LaTeX comes out nearly as it went in."""
    kept: list[str] = []

    def keep(text: str) -> str:
        kept.append(text)
        return f"{_OPEN}{len(kept) - 1}{_CLOSE}"

    def keep_math(match: re.Match[str]) -> str:
        if match["math"] is None:
            return match[0]
        return keep(re.sub(r"[ \t]*\\label\{[^{}]*\}", "", match[0]))

    text = re.sub(f"[{_OPEN}-{_BACKSLASH}]", "", source.replace("\r\n", "\n"))
    text = _VERBATIM.sub(lambda match: keep(match[2]), text)
    text = _VERB.sub(lambda match: keep(match[2]), text)
    text = re.sub(r"[ \t]+", " ", text)  # or the patterns below take a long time on long gaps
    text = re.sub(r"\n(?: ?\n)+", "\n\n", text)
    text = _COMMENT.sub(r"\1", _COMMENT_LINE.sub("", text))
    text = _body(text)
    text = _RULE.sub("", _NO_PROSE.sub("", text))
    text = _MATH.sub(keep_math, text)
    text = _characters(text)
    text = _ITEM.sub(lambda match: f"\n- {match[1]}: " if match[1] else "\n- ", text)
    text = _ENVIRONMENT.sub("\n\n", text)
    for _ in range(_MAX_DEPTH):
        text, changes = _COMMAND.subn(_unwrap, text)
        if not changes:
            break
    text = re.sub(r"\\[A-Za-z]+\*?(?:\[[^\]\n]{0,200}\])?[ \t]?|[{}]", "", text)
    text = _tidy(text)
    return _restore(text, kept)


def _body(text: str) -> str:
    """What stands between \\begin{document} and \\end{document} after the preamble's title; all of a fragment."""
    begin = text.find(r"\begin{document}")
    if begin < 0:
        return text
    body = text[begin + len(r"\begin{document}") :].split(r"\end{document}")[0]
    title = re.search(r"\\title(?:\[[^\]\n]*\])?(?=\{)", text[:begin])
    if title:
        depth = 0
        for end in range(title.end(), begin):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if not depth:
                return f"{text[title.start() : end + 1]}\n\n{body}"
    return body


def _characters(text: str) -> str:
    """Accents, special letters, symbols and escapes as the characters they stand for."""
    text = _LETTER.sub(lambda match: _LETTERS[match[1]], text)
    text = _ACCENT.sub(_accented, text)
    text = _SYMBOL.sub(lambda match: _SYMBOLS[match[1]] if match[1] != "textbackslash" else _BACKSLASH, text)
    return _ESCAPE.sub(_escaped, text)


def _accented(match: re.Match[str]) -> str:
    letter = (match[3] or match[4]).replace("ı", "i").replace("ȷ", "j")
    return letter + _ACCENTS[match[1] or match[2]]


def _escaped(match: re.Match[str]) -> str:
    escaped, bare = match[1], match[2]
    if bare:
        return " | " if bare == "&" else " "
    if escaped is None:  # a line break
        return "\n"
    special = {"{": _BRACE_OPEN, "}": _BRACE_CLOSE, "\n": " "}
    return special.get(escaped) or _SPACES.get(escaped, escaped)


def _unwrap(match: re.Match[str]) -> str:
    """An innermost command with its arguments, or bare braces, as text."""
    name = match[1] or ""
    arguments = re.findall(r"\{([^{}]*)\}", match[2])
    if name in _DROPPED:
        return ""
    if name in _HEADINGS:
        return f"\n\n{_HEADINGS[name]} {' '.join(arguments[0].split())}\n\n" + "".join(arguments[1:])
    if name in _BLOCKS:
        return "\n\n" + " ".join(arguments) + "\n\n"
    if name == "footnote":
        return f" ({arguments[0].strip()})" + "".join(arguments[1:])
    if name in _LAST_ONLY:
        return arguments[-1]
    return (" " if name else "").join(arguments)


def _tidy(text: str) -> str:
    """Quotes and dashes as characters, and no traces of what was dropped."""
    steps = [
        ("``|''", '"'),
        ("`", "'"),
        ("---", "—"),
        ("(?<!-)--(?!-)", "–"),
        (r"(?<=\s)[(\[][ \t,;]*[)\]]", ""),
        (r"[ \t]+([.,;)\]])(?=\s|$)", r"\1"),
        (r"[ \t]+", " "),
        (r" ?\n ?", "\n"),
        (r"\n{3,}", "\n\n"),
    ]
    for pattern, replacement in steps:
        text = re.sub(pattern, replacement, text)
    return text.replace(_BRACE_OPEN, "{").replace(_BRACE_CLOSE, "}").replace(_BACKSLASH, "\\")


def _restore(text: str, kept: list[str]) -> str:
    """Put back what was set aside. Later pieces may hold earlier ones, never the other way round."""
    return re.sub(f"{_OPEN}(\\d+){_CLOSE}", lambda match: _restore(kept[int(match[1])], kept), text)
