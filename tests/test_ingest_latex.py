"""LaTeX source: prose unwrapped, mathematics and verbatim text untouched."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmcli.ingest import latex, read
from kmcli.ingest.text import clean

_PAPER = r"""
\documentclass[11pt]{article} % the class
\usepackage{amsmath}
\newcommand{\R}{\mathbb{R}}
\title{On \emph{Things} of G{\"o}del}
\begin{document}
\maketitle
% a comment with \emph{markup}
\section[Short]{Introduction}\label{sec:intro}
We save 50\% of \textbf{deeply \emph{nested}} words,% joined
as in~\cite{knuth} and Section~\ref{sec:intro} (\cite{a,b}).
It costs \$5\footnote{Or \textit{less}.} --- ``really'' --- on pages 1--2.

\subsection*{A {\bf list}}
\begin{itemize}
  \item first \texttt{main()}
  \item[Term] second
\end{itemize}
\begin{figure}[ht]
  \centering\includegraphics[width=0.5\textwidth]{plot.png}
  \caption{The \emph{plot}.}\label{fig:plot}
\end{figure}
Math $x_1 = \frac{a}{b}$ % with a comment
and
\begin{align}
  E &= mc^2 \label{eq:e} \\
  \R &\ni 5\%
\end{align}
\begin{tabular}{l|p{3cm}}
  Name & Value \\ \hline
  A \& B & 1
\end{tabular}
\begin{verbatim}
100 % kept \emph{as is} $
\end{verbatim}
\href{https://x.org}{the site}, Stra\ss e, na\"ive, \c{c}a, Erd\H{o}s, \{set\}\ldots
\begin{thebibliography}{9} \bibitem{a} Gone. \end{thebibliography}
\end{document}
Nothing after the end.
"""


def test_latex(tmp_path: Path) -> None:
    (tmp_path / "paper.tex").write_text(_PAPER, "utf-8")
    got = read(str(tmp_path / "paper.tex"))
    assert (got.kind, got.suggested_name, got.pages) == ("latex", "paper", None)
    assert got.text == (
        "# On Things of Gödel\n\n## Introduction\n\n"
        "We save 50% of deeply nested words,as in and Section.\n"
        'It costs $5 (Or less.) — "really" — on pages 1–2.\n\n'
        "### A list\n\n- first main()\n- Term: second\n\nThe plot.\n\n"
        "Math $x_1 = \\frac{a}{b}$ and\n"
        "\\begin{align}\n E &= mc^2 \\\\\n \\R &\\ni 5\\%\n\\end{align}\n\n"
        "Name | Value\nA & B | 1\n\n\n100 % kept \\emph{as is} $\n\n"
        "the site, Straße, naïve, ça, Erdős, {set}…"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("A fragment without a document.", "A fragment without a document."),
        (r"\chapter{One} text", "# One\n\ntext"),
        (r"a \unknown{kept} b \alone c", "a kept b c"),
        (r"\textcolor{red}{warm \emph{words}} here", "warm words here"),
        (r"unbalanced \emph{words", "unbalanced words"),
        (r"so }}} many { braces", "so many braces"),
        (r"one\\two \% three\,four", "one\ntwo % three four"),
        (r"price \$5 and \$6 but $5 < x$", "price $5 and $6 but $5 < x$"),
        (r"\[ a % gone" + "\n" + r"+ b \] after", r"\[ a + b \] after"),
        (r"see \verb|\emph{x}| there", r"see \emph{x} there"),
        (r"back\textbackslash{}slash \`a \^{\i}", "back\\slash à î"),
        ("\ue0001\ue001", "1"),
    ],
)
def test_latex_pieces(source: str, text: str) -> None:
    assert clean(latex.to_text(source)).strip() == text
