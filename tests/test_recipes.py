"""Recipes: who outranks whom, what is refused and in which words, and the tables that must agree."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmcli import config
from kmcli.bases import EMBEDDED_FOLDER, Base, describe
from kmcli.errors import UsageError
from kmcli.training.mixture import parse
from kmcli.training.recipes import _LIMITS, PRESETS, resolve
from kmcli.types import AdapterName, Recipe, TaskName

PLAIN = Base("some/base", Path("/nowhere"), "abc123", "llama", 4096, 2048, 5, "general")
CARDED = dataclasses.replace(PLAIN, recipe={"learning_rate": 0.003, "temperature": 1.0, "epochs": 20.0, "rank": 8})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('rank = 32\nbatch = 4\ntasks = ["qa"]\nlearning_rate = 1\nearly_stopping = false\n')
    return path


# --- the order ---


def test_a_recipe_says_which_base_it_fits() -> None:
    assert resolve(PLAIN, "standard") == Recipe(model="some/base", revision="abc123", chunk_tokens=2048)


def test_card_preset_file_and_set_outrank_each_other_in_this_order(file: Path) -> None:
    card = resolve(CARDED, "standard")
    assert (card.learning_rate, card.temperature, card.epochs, card.rank) == (0.003, 1.0, 20.0, 8)
    preset = resolve(CARDED, "quick")
    assert (preset.learning_rate, preset.epochs, preset.generations) == (0.003, 12.0, 8)
    by_file = resolve(CARDED, "quick", file)
    assert (by_file.rank, by_file.batch, by_file.tasks, by_file.generations) == (32, 4, ("qa",), 8)
    assert by_file.learning_rate == 1.0
    assert isinstance(by_file.learning_rate, float)
    assert by_file.early_stopping is False
    by_set = resolve(
        CARDED, "quick", file, ["rank=2", "epochs = 3", "tasks=summary, qa", "early_stopping=yes", "rank=64"]
    )
    assert (by_set.rank, by_set.epochs, by_set.tasks, by_set.batch) == (64, 3.0, ("summary", "qa"), 4)
    assert by_set.early_stopping is True


def test_the_paper_s_numbers_hold_on_every_base() -> None:
    recipe = resolve(CARDED, "paper")
    assert (recipe.rank, recipe.alpha, recipe.dropout) == (16, 16, 0.05)
    assert (recipe.learning_rate, recipe.warmup, recipe.schedule, recipe.clip) == (1e-3, 0.06, "cosine", 1.0)
    assert (recipe.steps, recipe.batch, recipe.weight_decay, recipe.early_stopping) == (1500, 8, 0.0, False)
    assert (recipe.generations, recipe.summary_share, recipe.top_p, recipe.chunk_overlap) == (16, 1.0, 0.8, 0.1)
    assert (recipe.kl_weight, recipe.hidden_weight, recipe.objective, recipe.adapter) == (1.0, 1.0, "dcd", "lora")


def test_every_preset_fits_the_embedded_base_and_its_card() -> None:
    base = describe("embedded", EMBEDDED_FOLDER)
    for preset in PRESETS:
        recipe = resolve(base, preset)
        assert (recipe.model, recipe.revision, recipe.chunk_tokens) == ("embedded", base.revision, 128)
    assert resolve(base, "standard").learning_rate == base.recipe["learning_rate"] == 0.003


def test_tasks_may_have_their_own_number_of_generations() -> None:
    recipe = resolve(PLAIN, "standard", settings=["tasks=qa:4, question, creative:2"])
    assert recipe.tasks == ("qa:4", "question", "creative:2")
    assert Recipe.from_json(json.loads(json.dumps(recipe.as_json()))) == recipe
    embedded = describe("embedded", EMBEDDED_FOLDER)
    assert resolve(embedded, "standard").tasks == ("qa", "summary")
    with pytest.raises(UsageError, match="the base embedded was not trained on the task 'creative'"):
        resolve(embedded, "standard", settings=["tasks=qa,creative"])


def test_an_objective_is_kept_in_one_form() -> None:
    for line, kept in {
        "dcd": "dcd",
        "dcd,keep:1.0": "dcd,keep",
        " dcd:1 , lm: 0.10": "dcd,lm:0.1",
        "lm:2.50,dcd:1.0": "lm:2.5,dcd",
    }.items():
        recipe = resolve(PLAIN, "standard", settings=[f"objective={line}"])
        assert recipe.objective == kept
        assert resolve(PLAIN, "standard", settings=[f"objective={kept}"]) == recipe
        assert Recipe.from_json(json.loads(json.dumps(recipe.as_json()))) == recipe
    assert resolve(PLAIN, "standard", settings=["hidden_layers=0, 3,7"]).hidden_layers == "0,3,7"


def test_lengths_are_one_number_or_one_for_a_task(tmp_path: Path) -> None:
    def taken(value: str) -> str:
        return resolve(PLAIN, "standard", settings=[f"max_tokens={value}"]).max_tokens

    assert [taken(value) for value in ("", "256", " 0256 ", "summary:400", "qa:30, 256")] == [
        *("", "256", "256", "summary:400", "256,qa:30")
    ]
    file = tmp_path / "mine.toml"
    file.write_text("max_tokens = 300\n")
    assert resolve(PLAIN, "standard", file).max_tokens == "300"
    assert resolve(PLAIN, "standard", file, ["max_tokens="]).max_tokens == ""
    only_summaries = ["objective=sdcd", "max_tokens=qa:100,summary:200"]  # whose material leaves out the other task
    assert resolve(PLAIN, "standard", settings=only_summaries).max_tokens == "qa:100,summary:200"


def test_an_objective_on_summaries_needs_summaries() -> None:
    assert resolve(PLAIN, "standard", settings=["objective=sdcd"]).tasks == ("qa", "summary")
    with pytest.raises(UsageError) as caught:
        resolve(PLAIN, "standard", settings=["objective=lm,sdcd", "tasks=qa:3"])
    assert str(caught.value) == (
        "the objective sdcd learns from summary, and the recipe has no such task. Add it: --set tasks=qa:3,summary"
    )


# --- what is refused ---


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("rank", "--set takes key=value, not 'rank'. For example: --set rank=32"),
        ("rnak=4", "a recipe has no 'rnak' (--set). Did you mean rank?"),
        ("model=x", "a recipe has no 'model' (--set). It has "),
        ("revision=x", "a recipe has no 'revision' (--set). It has "),
        ("teacher_revision=x", "a recipe has no 'teacher_revision' (--set). Did you mean teacher_top_k or teacher?"),
        ("=4", "a recipe has no '' (--set). It has base_bits, teacher, distil_from, teacher_top_k, adapter, "),
        ("rank=many", "rank must be a whole number, not 'many'. For example: --set rank=16"),
        ("rank=1.5", "rank must be a whole number, not '1.5'. For example: --set rank=16"),
        ("rank=0", "rank must lie between 1 and 4,096, not 0. The default is 16."),
        ("learning_rate=fast", "learning_rate must be a number, not 'fast'. For example: --set learning_rate=0.001"),
        ("learning_rate=nan", "learning_rate must lie between 1e-09 and 1, not nan. The default is 0.001."),
        ("learning_rate=0", "learning_rate must lie between 1e-09 and 1, not 0.0. The default is 0.001."),
        ("kl_weight=inf", "kl_weight must lie between 0 and 1,000,000,000, not inf. The default is 1.0."),
        ("epochs=0", "epochs must lie between 0.01 and 1,000,000, not 0.0. The default is 12.0."),
        ("steps=-1", "steps must lie between 0 and 1,000,000,000, not -1. The default is 0."),
        ("seed=-5", "seed must lie between 0 and 1,000,000,000, not -5. The default is 0."),
        ("seed=9999999999999", "seed must lie between 0 and 1,000,000,000, not 9,999,999,999,999."),
        (
            "early_stopping=maybe",
            "early_stopping must be true or false, not 'maybe'. For example: --set early_stopping=true",
        ),
        ("schedule=flat", "'flat' is no schedule. Choose one of cosine, linear."),
        (
            "objective=dpo",
            "'dpo' is no objective. Choose one of dcd, sdcd, ddcd, lm, sft, pit, skd, keep; or a mix: dcd,lm:0.1",
        ),
        ("objective=ddc", "'ddc' is no objective. Did you mean ddcd or dcd"),
        ("objective=", "'' is no objective. Choose one of dcd, "),
        ("objective=dcd,lm:0", "'0' is no weight for the objective 'lm'. It is a number above 0. For example: lm:0.1"),
        ("objective=dcd:-1", "'-1' is no weight for the objective 'dcd'."),
        ("objective=keep:0.5", "the objective keep teaches nothing of the document. Put it beside another: dcd,keep"),
        ("objective=dcd,dcd:2", "the objective 'dcd' stands twice in the recipe. Name each objective once."),
        ("divergence=both", "'both' is no divergence. Choose one of forward, reverse, jsd."),
        ("hidden_layers=a\nb", r"hidden_layers must be all, last, even, or numbers such as 0,3,7, not 'a\nb'."),
        ("hidden_layers=odd", "hidden_layers must be all, last, even, or numbers such as 0,3,7, not 'odd'."),
        ("adapter=ia3", "'ia3' is no adapter. Choose one of lora, cartridge, compressed."),
        ("tasks=quiz", "there is no task 'quiz'. Choose among qa, summary, question, question_for, "),
        ("tasks=", "a recipe needs at least one task. Choose among qa, summary, question, question_for, "),
        ("tasks=qa:0", "'0' is no number of generations for the task 'qa'. It lies between 1 and 10,000."),
        ("tasks=qa,qa:3", "the task 'qa' stands twice in the recipe. Name each task once."),
        ("max_tokens=long", "'long' is no length in tokens. It lies between 8 and 65,536. For example: 256, or "),
        ("max_tokens=7", "'7' is no length in tokens. It lies between 8 and 65,536."),
        ("max_tokens=qa:0", "'0' is no length in tokens for the task 'qa'. It lies between 8 and 65,536."),
        ("max_tokens=:40", "max_tokens=:40 leaves out a task's name. For example: 256,summary:400"),
        ("max_tokens=40,50", "there are two lengths for every task. Give each one length."),
        ("max_tokens=qa:40,qa:50", "the task 'qa' has two lengths. Give each one length."),
        (
            "max_tokens=sumary:40",
            "max_tokens is given for 'sumary', and the recipe has no such task. Did you mean summary?",
        ),
        (
            "max_tokens=creative:40",
            "max_tokens is given for 'creative', and the recipe has no such task. "
            "Leave it out, or add it: --set tasks=qa,summary,creative",
        ),
        (
            "chunk_tokens=0",
            "chunk_tokens must lie between 16 and 1,048,576, not 0. Left out, it is what suits the base.",
        ),
    ],
)
def test_settings_that_make_no_sense(setting: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(PLAIN, "standard", settings=["batch=2", setting])
    assert str(caught.value).startswith(words)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rank = 16.0", "rank must be a whole number, not 16.0."),
        ("max_tokens = true", "max_tokens must be text, not True."),
        ("max_tokens = 3", "'3' is no length in tokens."),
        ("rank = true", "rank must be a whole number, not True."),
        ("learning_rate = true", "learning_rate must be a number, not True."),
        ("early_stopping = 1", "early_stopping must be true or false, not 1."),
        ("schedule = 3", "3 is no schedule."),
        ('tasks = "qa"', "tasks must be a list, not 'qa'. For example: --set tasks=qa,summary"),
        ('tasks = [["qa"]]', "there is no task ['qa']."),
        ("tasks = [{}]", "there is no task {}."),
        ("[rank]\nx = 1", "rank must be a whole number, not {'x': 1}."),
        ('model = "x"', "a recipe has no 'model' ("),
        ("ranks = 3", "a recipe has no 'ranks' ("),
        ("rank 3", "the recipe file "),
        ("\xff", "the recipe file "),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        resolve(PLAIN, "standard", file)
    assert str(caught.value).startswith(words)


def test_a_file_or_preset_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no recipe file .*none\.toml"):
        resolve(PLAIN, "standard", tmp_path / "none.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        resolve(PLAIN, "standard", tmp_path)
    with pytest.raises(UsageError, match=r"no preset 'fast'\. Choose one of quick, standard, paper\."):
        resolve(PLAIN, "fast")


def test_a_card_of_another_km_is_refused_by_name() -> None:
    newer = dataclasses.replace(PLAIN, recipe={"rank": 8, "optimiser": "muon"})
    with pytest.raises(UsageError, match=r"a recipe has no 'optimiser' \(the card of some/base\)"):
        resolve(newer, "standard")


KEYS = st.sampled_from([field.name for field in dataclasses.fields(Recipe)])
VALUES = st.one_of(
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["qa", "lora", "dcd", "linear", "no"]),
)


def taken(key: str, value: str) -> Recipe | str:
    try:
        return resolve(PLAIN, "standard", settings=[f"{key}={value}"])
    except UsageError as error:
        return error.hint


@given(KEYS, VALUES)
@settings(max_examples=300)
def test_any_setting_is_taken_or_refused_with_a_next_step(key: str, value: str) -> None:
    result = taken(key, value)
    assert result
    if isinstance(result, Recipe):
        assert Recipe.from_json(json.loads(json.dumps(result.as_json()))) == result


# --- tables that must agree ---


def test_presets_are_those_of_the_settings_and_change_what_a_recipe_has() -> None:
    assert tuple(PRESETS) == config.PRESETS
    names = {field.name for field in dataclasses.fields(Recipe)}
    for preset in PRESETS.values():
        assert preset.keys() <= names
    assert _LIMITS.keys() <= names


def test_every_default_lies_within_its_limits() -> None:
    for key, (low, high) in _LIMITS.items():
        value: Any = getattr(Recipe(chunk_tokens=2048), key)
        assert low <= value <= high, key


def test_defaults_are_members_of_their_families() -> None:
    recipe = Recipe()
    assert recipe.adapter in get_args(AdapterName)
    assert parse(recipe.objective) == {"dcd": 1.0}
    assert set(recipe.tasks) <= set(get_args(TaskName))


def test_a_recipe_of_a_newer_km_is_not_half_understood() -> None:
    with pytest.raises(TypeError, match="optimiser"):
        Recipe.from_json({**Recipe().as_json(), "optimiser": "muon"})
