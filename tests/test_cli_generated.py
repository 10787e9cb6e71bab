"""Help, manual and completion scripts: made from the same tree, never stale, and accepted by the programs that read them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cli_cases import Km, command, environment, runner
from kmcli.cli import boundary, completion, generate, manpage
from kmcli.cli.app import FIRST, GROUPS, PANELS, app, grouped, options
from kmcli.cli.boundary import tree
from kmcli.errors import EXIT_CODES

ROOT = Path(__file__).parents[1]
VERBS = [name for verbs in grouped(tree()).values() for name in verbs]


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


def test_nothing_generated_is_stale() -> None:
    assert generate.stale(ROOT) == []


def test_generate_writes_and_check_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("# km\n<!-- commands -->\nold\n<!-- /commands -->\nend\n")
    (tmp_path / "man").mkdir()
    (tmp_path / "man" / "km-gone.1").write_text("a verb that no longer exists")
    assert generate.main(["--check"]) == 1
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    assert not (tmp_path / "man" / "km-gone.1").exists()
    assert {path.name for path in (tmp_path / "man").iterdir()} == {
        *("km.1", "km-config.5", "km-exit-codes.7"),
        *(f"km-{verb}.1" for verb in VERBS),
    }
    assert {path.name for path in (tmp_path / "completions").iterdir()} == {"km.bash", "_km", "km.fish"}
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("# km\n<!-- commands -->\n| command |")
    assert readme.endswith("<!-- /commands -->\nend\n")
    assert "| `km ask [NAME...] [QUESTION]` | Ask documents a question, or the whole library. |" in readme
    assert "\nold\n" not in readme


def test_help_fits_a_screen_and_names_every_verb(km: Km) -> None:
    lines = km("--help").out.splitlines()
    assert len(lines) <= 23  # and the prompt below them
    assert max(map(len, lines)) <= 80
    assert not any(line.endswith("...") for line in lines)
    headings = [line for line in lines if not line.startswith(" ")][1:]
    headings.remove("")
    headings.remove("")
    assert [heading.partition(" (")[0] for heading in headings] == list(GROUPS)
    shown = [line.split()[0] for line in lines[lines.index(headings[0]) :] if line.startswith("  ")]
    assert shown == list(FIRST)
    assert len(shown) == 12
    others = [
        name for heading in headings for name in re.findall(r"[a-z]+", heading.partition("(")[2]) if name != "also"
    ]
    assert sorted(shown + others) == sorted(VERBS)
    research = headings[-1]
    assert all(name in research for name in ("synth", "eval", "extractor"))


def test_what_train_needs_every_day_stands_on_the_first_screen(km: Km) -> None:
    lines = km("train", "--help").out.splitlines()
    everyday = ("--all", "--preset", "--set", "--recipe", "--estimate", "--no-exam", "--force", "--restart", "--model")
    first = [line.split()[0].rstrip(",") for line in lines[:24] if line.startswith("  -")]
    assert first == [*everyday, "--device", "--json", "-q", "-h"]
    assert [line for line in lines if line and not line.startswith(" ")][1:] == [
        *("Arguments:", "Options:"),
        *(f"{panel}:" for panel in PANELS[1:]),
    ]
    offered = [line.split()[0].rstrip(",") for line in lines if line.startswith("  -")]
    assert sorted(offered) == sorted([param.opts[0] for param in options(tree().commands["train"])] + ["-h"])
    columns = {re.search(r"  +\S", line[2:]).end() for line in lines if line.startswith("  -")}  # type: ignore[union-attr]
    assert len(columns) == 1  # every panel's descriptions begin in one
    assert len(lines) <= 57


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_examples_json_and_quiet(km: Km, verb: str) -> None:
    run = km(verb, "--help")
    assert run.code == 0
    assert "--json" in run.out
    assert "-q, --quiet" in run.out
    examples = run.out[run.out.index("  Examples:\n") :].splitlines()[1:]
    assert 1 <= len(examples) <= 3
    assert all(re.match(r"    .*\bkm\b", line) for line in examples)
    assert any(f"km {verb}" in line for line in examples)


@pytest.mark.parametrize("alias", ["distill", "synthesize"])
def test_aliases_work_and_are_hidden(km: Km, alias: str) -> None:
    assert km(alias, "--help").code == 0
    assert alias not in km("--help").out + manpage.as_text(manpage.page(tree()))


def test_the_manual_has_the_exit_codes_and_every_option(km: Km) -> None:
    text = km("man").out
    for code, meaning in EXIT_CODES.items():
        assert f"    {code}\n        {meaning[:1].upper()}{meaning[1:]}." in text
    assert text.split("EXIT STATUS")[1].split("\n\n")[0] in km("man", "exit-codes").out
    assert "KM_MODEL" in km("man", "config-file").out
    page = km("man", "train").out
    assert "km train [OPTIONS] [NAME...]" in page
    for option in ("--all", "--preset PRESET", "--set KEY=VALUE", "--restart", "-h, --help"):
        assert f"    {option}\n" in page
    assert km("man", "train", "--json").envelope["data"] == {"page": "km-train", "text": page}


def test_roff_escapes() -> None:
    page = manpage.Page("km", (("TEXT", (".B is no request", manpage.Item("-x", "a \\ and 'b'"), "'quoted")),))
    roff = manpage.as_roff(page)
    assert "\n\\&.B is no request\n" in roff
    assert "\\fB\\-x\\fR\na \\e and 'b'\n" in roff
    assert "\n\\&'quoted\n" in roff


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
@pytest.mark.parametrize("page", ["km.1", "km-train.1", "km-completion.1", "km-config.5", "km-exit-codes.7"])
def test_man_has_no_complaint(page: str) -> None:
    words = ["man", "--warnings", "-l", str(ROOT / "man" / page)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(MANWIDTH="80", LC_ALL="C.UTF-8"))
    assert (done.returncode, done.stderr) == (0, "")
    assert page.upper().replace(".", "(") in done.stdout


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_mandoc_has_no_complaint() -> None:
    pages = sorted(map(str, (ROOT / "man").iterdir()))
    assert subprocess.run(["mandoc", "-T", "lint", *pages], capture_output=True, text=True).stdout == ""


# --- completion

NASTY = "$(touch pwned) `id` ; x"

BASH = """
set -u
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"
case "$before" in @) _km km "@$current" "$before" ;; *) _km km "$current" "$before" ;; esac
printf '%s\\n' ${COMPREPLY[@]+"${COMPREPLY[@]}"}
"""


def complete(*words: str, cwd: Path | None = None) -> list[str]:
    script = str(ROOT / "completions" / "km.bash")
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", script, "km", *words],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
        cwd=cwd,
    )
    return [line for line in done.stdout.splitlines() if line]


def test_bash_completes(km_home: Path, tmp_path: Path) -> None:
    km_home.mkdir()
    (km_home / "names").write_text(f"report\nRecipes\nreview 2024\n{NASTY}\n", "utf-8")
    (tmp_path / "plan.toml").write_text("")
    assert complete("tr") == ["train"]
    assert complete("") == [*VERBS, "--help", "--version"]
    assert complete("ask", "re") == ["report", "review\\ 2024"]
    assert complete("ask", "--method", "r") == ["rag"]
    assert complete("ask", "--method", "rag", "rep") == ["report"]
    assert complete("ask", "report", "re") == ["report", "review\\ 2024"]
    assert complete("rm", "-y", "report", "rev") == ["review\\ 2024"]
    assert complete("mv", "report", "re") == []
    assert complete("train", "--dev") == ["--device"]
    assert complete("train", "--device", "c") == ["cpu", "cuda"]
    assert complete("train", "--recipe", "pl", cwd=tmp_path) == ["plan.toml"]
    assert complete("add", "report", "pl", cwd=tmp_path) == ["plan.toml"]
    assert complete("config", "un") == ["unset"]
    assert complete("config", "set", "mo") == ["model"]
    assert complete("completion", "") == ["bash", "zsh", "fish"]
    assert len(complete("show", "$", cwd=tmp_path)) == 1
    assert not (tmp_path / "pwned").exists()


def test_bash_completes_tags(km_home: Path, tmp_path: Path) -> None:
    """As bash does it: @contracts are two words, of which both are replaced; without shopt hostcomplete it is one."""
    km_home.mkdir()
    (km_home / "names").write_text("report\n\n\n\ncontract\n\n\n@contracts\n@2024\n@$(touch${IFS}pwned)\n", "utf-8")
    for written in (["@", "con"], ["@con"]):
        assert complete("ask", "--each", *written) == ["@contracts"]
        assert complete("rm", "@", "2024", "report", *written) == ["@contracts"]
        assert complete("extractor", "train", "qa", "--docs", *written) == ["@contracts"]
        assert complete("mv", *written) == []
    assert complete("train", "con") == ["contract"]
    assert complete("mv", "") == ["report", "contract"]
    assert complete("ls", "--tag", "con") == complete("tag", "report", "--remove", "con") == ["contracts"]
    assert complete("ask", "@", cwd=tmp_path)[:2] == ["@contracts", "@2024"]
    assert complete("add", "--tag", "", cwd=tmp_path)[:2] == ["contracts", "2024"]
    assert not (tmp_path / "pwned").exists()


def test_bash_without_a_library_completes_nothing(km_home: Path) -> None:
    assert complete("ask", "") == []


@pytest.mark.parametrize(("shell", "file"), [("bash", "km.bash"), ("zsh", "_km"), ("fish", "km.fish")])
def test_scripts_are_printed_and_parse(km: Km, shell: str, file: str) -> None:
    path = ROOT / "completions" / file
    assert km("completion", shell).out == path.read_text("utf-8")
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(path)], check=True)


def test_all_three_scripts_know_every_verb_and_option() -> None:
    texts = [(ROOT / "completions" / name).read_text("utf-8") for name in ("km.bash", "_km", "km.fish")]
    for one in completion.commands(tree()):
        for text in texts:
            assert one.name in text
        for option in one.options:
            for flag in option.flags:
                assert f" {flag}" in texts[0]
                assert f"*{flag}[" in texts[1]
                assert (f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}") in texts[2]


def test_the_library_keeps_the_file_of_names(km: Km, km_home: Path, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("Ann wrote this report in Oslo.")
    km("add", str(tmp_path / "report.txt"))
    assert complete("show", "r") == ["report"]
    km("mv", "report", "paper")
    assert complete("show", "") == ["paper"]
    km("tag", "paper", "--add", "Contracts", "--add", "2024")
    assert complete("tag", "") == ["paper", "@contracts", "@2024"]
    km("tag", "paper", "--remove", "2024")
    km("add", str(tmp_path / "report.txt"), "--tag", "zoo")
    assert complete("tag", "") == ["paper", "@contracts", "@zoo"]
    km("rm", "paper", "--yes")
    assert complete("tag", "") == []


def test_pressing_tab_starts_no_python() -> None:
    for name in ("km.bash", "_km", "km.fish"):
        text = (ROOT / "completions" / name).read_text("utf-8")
        assert "python" not in text.replace("vllm_python", "")  # a setting
        assert not re.search(r"\$\(km |`km ", text)


# --- start-up


def test_a_verb_is_built_without_the_others() -> None:
    tree()
    made = [
        (str(one.callback.__module__).rpartition(".")[2], one.name) for one in app.registered_commands if one.callback
    ]
    assert made == [(module, verb) for module, verbs in boundary.VERBS.items() for verb in verbs]
    program = (
        "import sys; from kmcli.cli.boundary import tree; tree('ask'); print([m for m in sys.modules if '_verb' in m])"
    )
    done = subprocess.run([command()[0], "-c", program], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == "['kmcli.cli.ask_verb']\n"


HEAVY = ("torch", "transformers", "peft", "llama_cpp", "gguf", "pypdf", "trafilatura", "mammoth", "huggingface_hub")


@pytest.mark.parametrize(
    "words", [["--help"], [], ["ls"], ["config"], ["completion", "bash"], ["man"], ["train", "-h"]]
)
def test_nothing_heavy_is_imported(words: list[str]) -> None:
    program = (
        "import sys; from kmcli.cli.boundary import main; code = main(sys.argv[1:]); "
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([command()[0], "-c", program, *words], capture_output=True, text=True, env=environment())
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "[]"
