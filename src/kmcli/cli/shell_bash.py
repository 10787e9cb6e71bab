"""The completion script for bash, and what it has in common with that for zsh."""

from __future__ import annotations

from collections.abc import Sequence

from kmcli.cli.completion import Command, Value


def _folder_sh(variable: str, xdg: str) -> str:
    """Sets a shell variable to km's folder, as `config` finds it; xdg: where that is on Linux."""
    return f"""\
  local {variable}="${{KM_HOME:-}}"
  if [ -z "${variable}" ]; then
    case "$OSTYPE" in
      darwin*) {variable}="$HOME/Library/Application Support/km" ;;
      *) {variable}="{xdg}/km" ;;
    esac
  fi"""


HOME_SH = _folder_sh("home", "${XDG_DATA_HOME:-$HOME/.local/share}")
"""Where the library is."""

TASKS_SH = _folder_sh("tasks", "${XDG_CONFIG_HOME:-$HOME/.config}") + '\n  tasks="$tasks"/tasks'
"""Where a person's own tasks are, a file each."""

HUB_SH = '  local hub="${HF_HUB_CACHE:-${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/hub}"'
"""Where downloaded models are, a folder each."""

LISTED = f"""\
_km_words() {{  # the given words that begin with $cur
  local word
  for word in "$@"; do
    case "$word" in "$cur"*) COMPREPLY+=("$word") ;; esac
  done
}}

_km_listed() {{  # of the library what $1 says; awk, because bash reads ten thousand lines slowly
{HOME_SH}
  [ -r "$home/names" ] || return
  local IFS=$'\\n' globbing="" found
  [[ $- == *f* ]] || globbing=yes
  set -f  # a name is no pattern
  found=($(LC_ALL=C kind="$1" cur="$cur" quote="$quote" awk '
    BEGIN {{ kind = ENVIRON["kind"]; cur = ENVIRON["cur"]; size = length(cur); quote = ENVIRON["quote"] }}
    $0 == "" {{ next }}  # here a document was removed
    {{ tag = substr($0, 1, 1) == "@" }}
    kind == "name" && tag || kind == "tag" && !tag {{ next }}
    kind == "tag" {{ $0 = substr($0, 2) }}
    substr($0, 1, size) != cur {{ next }}
    quote == "\\"" {{ gsub(/[\\\\"$`]/, "\\\\\\\\&") }}
    quote == "\\047" {{ gsub(/\\047/, "\\047\\\\\\\\\\047\\047") }}
    {{ print }}
  ' "$home/names"))
  if [ -n "$quote" ]; then
    COMPREPLY+=("${{found[@]}}")
  elif [ ${{#found[@]}} -gt 0 ]; then
    COMPREPLY+=($(printf '%q\\n' "${{found[@]}}"))  # so that each is one word, whatever is in it
  fi
  [ -z "$globbing" ] || set +f
}}

_km_tasks() {{  # a person's own
{TASKS_SH}
  local file
  for file in "$tasks"/*.toml; do
    file="${{file##*/}}"
    [ "$file" = "*.toml" ] || _km_words "${{file%.toml}}"
  done
}}

_km_models() {{  # those that the hub's cache has
{HUB_SH}
  local folder
  for folder in "$hub"/models--*; do
    [ -d "$folder" ] || continue
    folder="${{folder##*/models--}}"
    _km_words "${{folder/--//}}"
  done
}}

_km_files() {{
  compopt -o filenames 2>/dev/null
  local file
  while IFS= read -r file; do COMPREPLY+=("$file"); done < <(compgen -f -- "$cur")
}}
"""


def bash(found: Sequence[Command]) -> str:
    """For bash 3.2 and later."""
    verbs = " ".join(command.name for command in found)
    lines = [
        "# bash completion for km. Generated: change the commands instead.",
        "",
        LISTED,
        "_km() {",
        '  local cur="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
        '  local verb="${COMP_WORDS[1]}" place=0 index quote=""',
        '  case "${2-}" in  # what is to be replaced; COMP_WORDS has @TAG as two words',
        '    @*) cur="$2"; [ "$previous" != @ ] || previous="${COMP_WORDS[COMP_CWORD-2]}" ;;',
        "  esac",
        '  case "$cur" in',
        '    [\\\'\\"]*) quote="${cur:0:1}" cur="${cur:1}" ;;',
        '    *) cur="${cur//\\\\/}" ;;',
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
    words = "_km_words " + " ".join(value.words)
    actions = {
        "word": words,
        "task": f"{words}; _km_tasks",
        "model": f"{words}; _km_models; _km_files",
        "file": "_km_files",
        "none": ":",
    }
    return actions.get(value.kind, f"_km_listed {value.kind}")
