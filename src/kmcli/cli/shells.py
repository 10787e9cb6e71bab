"""The completion scripts, a function a shell. Names and tags are data: no script evaluates or expands them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kmcli.cli.completion import Command, Option, Value

NAMES_FILE_SH = """\
  local home="${KM_HOME:-}"
  if [ -z "$home" ]; then
    case "$OSTYPE" in
      darwin*) home="$HOME/Library/Application Support/km" ;;
      *) home="${XDG_DATA_HOME:-$HOME/.local/share}/km" ;;
    esac
  fi"""


# --- bash


def bash(found: Sequence[Command]) -> str:
    """For bash 3.2 and later."""
    verbs = " ".join(command.name for command in found)
    lines = [
        "# bash completion for km. Generated: change the commands instead.",
        "",
        "_km_words() {  # the given words that begin with $cur",
        "  local word",
        '  for word in "$@"; do',
        '    case "$word" in "$cur"*) COMPREPLY+=("$word") ;; esac',
        "  done",
        "}",
        "",
        "_km_listed() {  # of the library what $1 says; printf %q keeps it one word, whatever is in it",
        NAMES_FILE_SH,
        '  [ -r "$home/names" ] || return',
        "  local name",
        "  while IFS= read -r name; do",
        '    case "$1 $name" in  # empty where a document was removed',
        '      *" " | "name @"* | "tag "[!@]*) continue ;;',
        '      "tag "*) name="${name#@}" ;;',
        "    esac",
        '    case "$name" in "$cur"*) COMPREPLY+=("$(printf %q "$name")") ;; esac',
        '  done < "$home/names"',
        "}",
        "",
        "_km_files() {",
        "  compopt -o filenames 2>/dev/null",
        "  local file",
        '  while IFS= read -r file; do COMPREPLY+=("$file"); done < <(compgen -f -- "$cur")',
        "}",
        "",
        "_km() {",
        '  local cur="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
        '  local verb="${COMP_WORDS[1]}" place=0 index',
        '  case "${2-}" in  # what is to be replaced; COMP_WORDS has @TAG as two words',
        '    @*) cur="$2"; [ "$previous" != @ ] || previous="${COMP_WORDS[COMP_CWORD-2]}" ;;',
        "  esac",
        "  COMPREPLY=()",
        '  if [ "$COMP_CWORD" -eq 1 ]; then',
        f"    _km_words {verbs} --help --version",
        "    return",
        "  fi",
        '  case "$verb $previous" in',
    ]
    for command in found:
        lines += _bash_options(command)
    lines += [
        "  esac",
        "  for ((index = 2; index < COMP_CWORD; index++)); do  # positional arguments before this one",
        '    case "$verb ${COMP_WORDS[index]}" in',
        f"      {' | '.join(_bash_valued(found))}) index=$((index + 1)) ;;",
        '      "$verb -"?* | "$verb @") ;;',
        "      *) place=$((place + 1)) ;;",
        "    esac",
        "  done",
        '  case "$verb" in',
    ]
    for command in found:
        flags = " ".join(flag for option in command.options for flag in option.flags)
        lines += [f"    {command.name})", f'      case "$cur" in -*) _km_words {flags}; return ;; esac']
        lines += _bash_positions(command)
        lines.append("      ;;")
    return "\n".join([*lines, "  esac", "}", "", "complete -F _km km", ""])


def _bash_options(command: Command) -> list[str]:
    lines = []
    for option in command.options:
        if option.value is not None:
            patterns = " | ".join(f'"{command.name} {flag}"' for flag in option.flags)
            lines.append(f"    {patterns}) {_bash_action(option.value)}; return ;;")
    return lines


def _bash_valued(found: Sequence[Command]) -> list[str]:
    return [
        f'"{command.name} {flag}"'
        for command in found
        for option in command.options
        if option.value is not None
        for flag in option.flags
    ]


def _bash_positions(command: Command) -> list[str]:
    if not command.positions:
        return []
    lines = ["      case $place in"]
    last = len(command.positions) - 1
    for place, value in enumerate(command.positions):
        if value.kind != "none":
            pattern = "*" if command.repeats and place == last else str(place)
            lines.append(f"        {pattern}) {_bash_action(value)} ;;")
    return [*lines, "      esac"]


def _bash_action(value: Value) -> str:
    if value.kind == "word":
        return "_km_words " + " ".join(value.words)
    return {"file": "_km_files", "none": ":"}.get(value.kind, f"_km_listed {value.kind}")


# --- zsh


def zsh(found: Sequence[Command]) -> str:
    """A function for a folder of $fpath, by the name _km."""
    lines = [
        "#compdef km",
        "# zsh completion for km. Generated: change the commands instead.",
        "",
        "_km_listed() {  # of the library what the last word says",
        NAMES_FILE_SH,
        '  [[ -r "$home/names" ]] || return 1',
        "  local -a names",
        '  names=("${(@f)$(<"$home/names")}")',
        '  names=("${(@)names:#}")  # empty where a document was removed',
        "  case ${@[-1]} in",
        '    name) names=("${(@)names:#@*}") ;;',
        '    tag) names=("${(@)${(@M)names:#@*}#@}") ;;',
        "  esac",
        "  compadd -a names",
        "}",
        "",
        "_km() {",
        "  local -a verbs",
        "  verbs=(",
        *(f"    {_quoted(command.name + ':' + command.help)}" for command in found),
        "  )",
        "  if (( CURRENT == 2 )); then",
        "    _describe command verbs",
        "    return",
        "  fi",
        "  local verb=$words[2]",
        "  shift words",
        "  (( CURRENT-- ))",
        "  case $verb in",
    ]
    for command in found:
        specs = [spec for option in command.options for spec in _zsh_option(option)]
        last = len(command.positions) - 1
        for place, value in enumerate(command.positions):
            where = "*" if command.repeats and place == last else str(place + 1)
            told = "document" if value.kind in ("name", "names") else value.kind
            specs.append(f"{where}:{told}:{_zsh_action(value)}")
        lines += [f"    {command.name})", "      _arguments -s \\"]
        lines += [f"        {_quoted(spec)} \\" for spec in specs[:-1]] + [f"        {_quoted(specs[-1])}", "      ;;"]
    return "\n".join([*lines, "  esac", "}", "", '_km "$@"', ""])


def _zsh_option(option: Option) -> list[str]:
    told = option.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
    value = "" if option.value is None else f":value:{_zsh_action(option.value)}"
    return [f"*{flag}[{told}]{value}" for flag in option.flags]


def _zsh_action(value: Value) -> str:
    if value.kind == "word":
        return f"({' '.join(value.words)})"
    return {"file": "_files", "none": " "}.get(value.kind, f"_km_listed {value.kind}")


# --- fish


def fish(found: Sequence[Command]) -> str:
    """For ~/.config/fish/completions or a vendor folder."""
    lines = [
        "# fish completion for km. Generated: change the commands instead.",
        "",
        "function __km_listed",
        '    set -l home "$KM_HOME"',
        '    if test -z "$home"',
        "        if test (uname) = Darwin",
        '            set home "$HOME/Library/Application Support/km"',
        '        else if test -n "$XDG_DATA_HOME"',
        '            set home "$XDG_DATA_HOME/km"',
        "        else",
        '            set home "$HOME/.local/share/km"',
        "        end",
        "    end",
        '    test -r "$home/names"; or return',
        "    switch $argv[1]",
        "        case name",
        '            string match -rv "^(@|$)" <"$home/names"',
        "        case names",
        '            string match -rv "^$" <"$home/names"',
        "        case tag",
        '            string match "@*" <"$home/names" | string sub -s 2',
        "    end",
        "end",
        "",
        "complete -c km -f",
        "complete -c km -n __fish_use_subcommand -s h -l help -d 'Show this message and exit.'",
        "complete -c km -n __fish_use_subcommand -l version -d 'Print the version and leave.'",
    ]
    for command in found:
        lines += ["", f"complete -c km -n __fish_use_subcommand -a {command.name} -d {_fish_quoted(command.help)}"]
        condition = f"complete -c km -n '__fish_seen_subcommand_from {command.name}'"
        for option in command.options:
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
            needs = "" if option.value is None else " -r" if option.value.kind == "file" else " -x"  # x: no files
            action = needs + (_fish_action(option.value) if option.value else "")
            lines.append(f"{condition} {flags}{action} -d {_fish_quoted(option.help)}")
        # fish does not count positions: what any of them takes is offered at each.
        actions = dict.fromkeys(_fish_action(value) for value in command.positions)
        lines += [f"{condition}{action}" for action in actions if action]
    return "\n".join([*lines, ""])


def _fish_action(value: Value) -> str:
    if value.kind == "word":
        return f" -a '{' '.join(value.words)}'"
    return {"file": " -F", "none": ""}.get(value.kind, f" -a '(__km_listed {value.kind})'")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: dict[str, Callable[[Sequence[Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
"""The script of each shell."""
