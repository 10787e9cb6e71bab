"""Settings: who outranks whom, where they live, how they are changed, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmcli import config
from kmcli.config import SETTINGS, Value, config_file, home, read_file, resolve, store
from kmcli.errors import KmError, UsageError


@pytest.fixture
def file(km_home: Path) -> Path:
    km_home.mkdir()
    return km_home / "config.toml"


# --- the order ---


def test_flag_environment_file_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve()["device"] == Value("auto", "default")
    file.write_text('device = "cpu"\n')
    assert resolve()["device"] == Value("cpu", str(file))
    monkeypatch.setenv("KM_DEVICE", "cuda")
    assert resolve()["device"] == Value("cuda", "KM_DEVICE")
    assert resolve({"device": "mps"})["device"] == Value("mps", "flag")
    assert resolve({"device": None})["device"] == Value("cuda", "KM_DEVICE")
    monkeypatch.setenv("KM_DEVICE", "")
    assert resolve()["device"] == Value("cpu", str(file))
    assert resolve()["preset"] == Value("standard", "default")
    assert resolve().keys() == SETTINGS.keys()


def test_every_default_is_one_of_its_choices_and_every_variable_its_own() -> None:
    for setting in SETTINGS.values():
        assert not setting.choices or setting.default in setting.choices
        assert setting.variable.startswith("KM_")
        assert setting.help
    assert len({setting.variable for setting in SETTINGS.values()}) == len(SETTINGS)
    assert "KM_HOME" not in {setting.variable for setting in SETTINGS.values()}


# --- where ---


def test_km_home_holds_everything(km_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (home(), config_file()) == (km_home, km_home / "config.toml")
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("KM_HOME", "~/mine")
    assert home() == Path("/somewhere/mine")
    monkeypatch.chdir("/")
    monkeypatch.setenv("KM_HOME", "here")
    assert home() == Path("/here")


@pytest.mark.parametrize("given", [None, ""])
def test_without_km_home_the_platform_decides(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    if given is None:
        monkeypatch.delenv("KM_HOME")
    else:
        monkeypatch.setenv("KM_HOME", given)
    assert home() == Path(platformdirs.user_data_dir("km", appauthor=False))
    assert config_file() == Path(platformdirs.user_config_dir("km", appauthor=False)) / "config.toml"


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('devise = "cpu"', "there is no setting 'devise' ({file}). Did you mean device?"),
        ('zzz = "cpu"', "there is no setting 'zzz' ({file}). Known settings: model, device, preset, engine, "),
        ('device = "gpu"', "'gpu' is no value for 'device' ({file}). Choose one of auto, cpu, cuda, mps."),
        ("device = 3", "the setting 'device' must be text in quotes ({file}). For example: device = \"auto\""),
        ("[model]\nname = 1", "the setting 'model' must be text in quotes ({file})."),
        ('max_pages = "many"', "'many' is no value for 'max_pages' ({file}). Give a whole number, such as 5000."),
        ('max_pages = "0"', "'0' is no value for 'max_pages' ({file}). Give a whole number, such as 5000."),
        ('max_pages = "9999999999"', "'9999999999' is no value for 'max_pages' ({file})."),
        ('model = " "', "the setting 'model' is empty ({file}). For example: embedded"),
        ("device = cpu", "{file} is not valid TOML: "),
        ("\xff", "{file} is not valid TOML: "),
    ],
)
def test_a_file_that_makes_no_sense(file: Path, text: str, words: str) -> None:
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        resolve({"device": "cpu"})
    assert str(caught.value).startswith(words.format(file=file))


def test_a_bad_value_names_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"'gpu' is no value for 'device' \(flag\)"):
        resolve({"device": "gpu"})
    with pytest.raises(UsageError, match=r"the setting 'model' is empty \(flag\)"):
        resolve({"model": ""})
    monkeypatch.setenv("KM_PRESET", "fast")
    with pytest.raises(UsageError, match=r"'fast' is no value for 'preset' \(KM_PRESET\)"):
        resolve()


def test_a_file_that_cannot_be_read(km_home: Path) -> None:
    (km_home / "config.toml").mkdir(parents=True)
    with pytest.raises(KmError, match=r"config\.toml cannot be read: Is a directory\. Check its permissions\."):
        resolve()
    assert read_file(km_home / "none.toml") == {}


# --- changing ---


def test_storing_keeps_comments_and_order(file: Path) -> None:
    file.write_text('# mine\npreset = "quick"  # for now\n\ndevice = "cpu"\n')
    assert store("preset", "paper") == file
    assert store("model", "some/base") == file
    assert file.read_text() == '# mine\npreset = "paper"  # for now\n\ndevice = "cpu"\nmodel = "some/base"\n'
    store("preset", None)
    store("preset", None)  # gone already
    assert read_file(file) == {"device": "cpu", "model": "some/base"}
    assert [path.name for path in file.parent.iterdir()] == ["config.toml"]


def test_the_first_setting_makes_the_file(km_home: Path) -> None:
    assert not km_home.exists()
    store("device", "cpu")
    assert (km_home / "config.toml").read_text() == 'device = "cpu"\n'


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("devise", "cpu", "there is no setting 'devise'"),
        ("devise", None, "there is no setting 'devise'"),
        ("device", "gpu", "'gpu' is no value for 'device'"),
        ("model", "", "the setting 'model' is empty"),
    ],
)
def test_nothing_wrong_is_stored(file: Path, key: str, value: str | None, words: str) -> None:
    file.write_text('device = "cpu"\n')
    with pytest.raises(UsageError, match=words):
        store(key, value)
    assert file.read_text() == 'device = "cpu"\n'


def test_a_damaged_file_is_not_written_over(file: Path) -> None:
    file.write_text("device = cpu\n")
    with pytest.raises(UsageError, match="not valid TOML"):
        store("device", "cpu")
    assert file.read_text() == "device = cpu\n"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KM_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(KmError, match=r"config\.toml cannot be (read|written): Not a directory"):
        store("device", "cpu")


@given(st.text(min_size=1, max_size=40).filter(str.strip))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_model_name_comes_back_as_it_was(name: str) -> None:
    store("model", name)
    assert resolve()["model"] == Value(name, str(config.config_file()))
