"""The door: parses the command line, calls one function of `workflows`, and draws its result. No logic of its own.

boundary.py        main(): runs a command; the one place that turns errors into exit codes
app.py             the Typer app, and what makes a function a verb
*_verbs.py         the verbs, by group of the help screen
screen.py          what goes to which stream, and the JSON envelope
render.py          values to text: tables, sizes, times, untrusted text
progress.py        events to bars or lines
manpage.py, completion.py, generate.py   everything that is generated from the tree of verbs
"""
