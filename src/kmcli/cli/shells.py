"""The completion scripts, a function a shell. Names and tags are data: no script evaluates or expands them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kmcli.cli.completion import Command, Option, Value
from kmcli.cli.shell_bash import HOME_SH, HUB_SH, TASKS_SH, bash

# --- zsh


def zsh(found: Sequence[Command]) -> str:
    """A function for a folder of $fpath, by the name _km."""
    lines = [
        "#compdef km",
        "# zsh completion for km. Generated: change the commands instead.",
        "",
        "_km_listed() {  # of the library what the last word says",
        HOME_SH,
        '  [[ -r "$home/names" ]] || return 1',
        "  local -a names",
        '  local -a all=("${(@f)$(<"$home/names")}")',
        '  names=("${(@M)all:#(#i)(@|)${(bQ)PREFIX}*}")  # to look at all of many takes long',
        '  (( $#names )) || names=("${(@)all}")',
        '  names=("${(@)names:#}")  # empty where a document was removed',
        "  case ${@[-1]} in",
        '    name) names=("${(@)names:#@*}") ;;',
        '    tag) names=("${(@)${(@M)names:#@*}#@}") ;;',
        "  esac",
        "  compadd -a names",
        "}",
        "",
        "_km_tasks() {  # km's, which are given, and a person's own",
        TASKS_SH,
        '  local -a found=("$tasks"/*.toml(N:t:r))',
        '  compadd "$@" $found',
        "}",
        "",
        "_km_models() {  # those that the hub's cache has, or a folder or file",
        HUB_SH,
        '  local -a found=("$hub"/models--*(N/:t))',
        '  found=("${(@)found#models--}")',
        '  compadd "$@" "${(@)found/--//}"',
        "  _files",
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
    words = " ".join(value.words)
    actions = {
        "word": f"({words})",
        "task": f"_km_tasks {words}",
        "model": f"_km_models {words}",
        "file": "_files",
        "none": " ",
    }
    return actions.get(value.kind, f"_km_listed {value.kind}")


# --- fish


def fish(found: Sequence[Command]) -> str:
    """For ~/.config/fish/completions or a vendor folder."""
    lines = [
        "# fish completion for km. Generated: change the commands instead.",
        "",
        "function __km_beginning  # of file $argv[1] the lines that match $argv[2] and begin like the word; if none, all",
        "    set -l begin (string escape --style=regex -- (commandline -ct))",
        '    string match -ri -- "^$argv[2]$begin.*" <$argv[1]',
        '    or string match -r -- "^$argv[2].*" <$argv[1]',
        "end",
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
        '            __km_beginning "$home/names" "(?=.)(?!@)"',
        "        case names",
        '            __km_beginning "$home/names" "(?=.)"',
        "        case tag",
        "            string match '@*' <\"$home/names\" | string sub -s 2",
        "        case task",
        '            set -l folder "$KM_HOME"',
        '            if test -z "$folder"',
        "                if test (uname) = Darwin",
        '                    set folder "$HOME/Library/Application Support/km"',
        '                else if test -n "$XDG_CONFIG_HOME"',
        '                    set folder "$XDG_CONFIG_HOME/km"',
        "                else",
        '                    set folder "$HOME/.config/km"',
        "                end",
        "            end",
        '            for file in "$folder"/tasks/*.toml',
        "                string replace -r '.*/(.*)\\.toml' '$1' -- $file",
        "            end",
        "    end",
        "end",
        "",
        "function __km_models  # those that the hub's cache has",
        "    set -l hub $HF_HUB_CACHE",
        '    if test -z "$hub"',
        '        if test -n "$HF_HOME"',
        '            set hub "$HF_HOME/hub"',
        '        else if test -n "$XDG_CACHE_HOME"',
        '            set hub "$XDG_CACHE_HOME/huggingface/hub"',
        "        else",
        '            set hub "$HOME/.cache/huggingface/hub"',
        "        end",
        "    end",
        '    for folder in "$hub"/models--*',
        "        string replace -r '.*/models--' '' -- $folder | string replace -- -- /",
        "    end",
        "end",
        "",
        "function __km_is  # whether the command is this one",
        "    set -l words (commandline -opc)",
        '    test "$words[2]" = $argv[1]',
        "end",
        "",
        "complete -c km -f",
        "complete -c km -n __fish_use_subcommand -s h -l help -d 'Show this message and exit.'",
        "complete -c km -n __fish_use_subcommand -l version -d 'Print the version and leave.'",
    ]
    for command in found:
        lines += ["", f"complete -c km -n __fish_use_subcommand -a {command.name} -d {_fish_quoted(command.help)}"]
        condition = f"complete -c km -n '__km_is {command.name}'"
        for option in command.options:
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
            needs = (
                "" if option.value is None else " -r" if option.value.kind in ("file", "model") else " -x"
            )  # x: no files
            action = needs + (_fish_action(option.value) if option.value else "")
            lines.append(f"{condition} {flags}{action} -d {_fish_quoted(option.help)}")
        # fish does not count positions: what any of them takes is offered at each.
        actions = dict.fromkeys(_fish_action(value) for value in command.positions)
        lines += [f"{condition}{action}" for action in actions if action]
    return "\n".join([*lines, ""])


def _fish_action(value: Value) -> str:
    words = " ".join(value.words)
    actions = {
        "word": f" -a '{words}'",
        "task": f" -a '{words} (__km_listed task)'",
        "model": f" -F -a '{words} (__km_models)'",
        "file": " -F",
        "none": "",
    }
    return actions.get(value.kind, f" -a '(__km_listed {value.kind})'")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: dict[str, Callable[[Sequence[Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
"""The script of each shell."""
