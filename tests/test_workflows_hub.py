"""A base from the hub through the command line, in processes of its own that find a hub on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_cases import Km
from fakehub import FakeHub, closed_port
from hub_cases import contents, save_model
from workflow_cases import finish, km, permits, sentences

__all__ = ["km", "permits"]

NAME = "org/tiny"


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a person whose hub is elsewhere, without a token and with an empty cache."""
    for variable in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "HTTP_PROXY",
        "http_proxy",
    ):
        monkeypatch.delenv(variable, raising=False)
    return {"HF_HOME": str(tmp_path / "hf"), "KM_MODEL": "", "NO_PROXY": "127.0.0.1"}


def test_download_and_answer(km: Km, permits: Path, tmp_path: Path, where: dict[str, str]) -> None:
    save_model(tmp_path / "model")
    assert km("config", "set", "model", NAME).code == 0
    with FakeHub({NAME: contents(tmp_path / "model")}) as hub:
        online = where | {"HF_ENDPOINT": hub.url}
        code, out, err = finish("ask", "permits", "Which department?", "--method", "bare", "--json", **online)
        assert code == 0, err
        answer = json.loads(out)["data"]
        assert (answer["method"], answer["evidence"]) == ("bare", [])
        assert answer["prompt_tokens"] > 0
        downloads = [line for line in err.splitlines() if line.startswith("download  ")]
        assert downloads[0] == f"download  {NAME}"
        assert downloads[-1].startswith("download  1.7 MB/1.7 MB  org/tiny  in ")
        assert not sentences(err)
    code, out, _ = finish("models", **where)
    assert code == 0
    assert any(line.startswith(f"*  {NAME}") and "downloaded from the hub" in line for line in out.splitlines())


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ({"models": {}}, f"km: there is no model {NAME} on the hub, or it is private. Check the spelling;"),
        ({"refuse": (401, {})}, f"km: the hub does not give {NAME} to everybody. See "),
        (
            {"refuse": (403, {"X-Error-Code": "GatedRepo"})},
            f"km: {NAME} is given only to people who accepted its licence. Accept it at ",
        ),
        ({"refuse": (500, {})}, "km: the model hub at "),
    ],
)
def test_a_hub_that_refuses(permits: Path, where: dict[str, str], trouble: dict[str, object], sentence: str) -> None:
    settings = {"models": {NAME: {"config.json": b"{}"}}} | trouble
    with FakeHub(**settings) as hub:  # type: ignore[arg-type]
        code, out, err = finish("train", "permits", "--model", NAME, **where, HF_ENDPOINT=hub.url)
    assert (code, out) == (4, "")
    assert len(sentences(err)) == 1
    assert sentences(err)[0].startswith(sentence)


@pytest.mark.parametrize("forbidden", [True, False])
def test_offline(permits: Path, where: dict[str, str], forbidden: bool) -> None:
    changes = {"HF_HUB_OFFLINE": "1"} if forbidden else {"HF_ENDPOINT": f"http://127.0.0.1:{closed_port()}"}
    code, out, err = finish("ask", "permits", "Who?", "--model", NAME, **where, **changes)
    assert (code, out) == (4, "")
    (sentence,) = sentences(err)
    assert (
        "HF_HUB_OFFLINE forbids downloading it" if forbidden else "cannot reach the model hub at http://127.0.0.1"
    ) in sentence
    assert "--model embedded" in sentence
