"""The upload of a run, with the hub's client replaced."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError

from corefold.finetune import InputError
from corefold.finetune.hub import push_to_hub


def test_the_folder_goes_to_a_private_repository(monkeypatch, tmp_path):
    calls = {}

    class Url(str):
        repo_id = "me/run"

    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, name, **options: calls.update(name=name, **options) or Url("u")
    )
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **options: calls.update(options))
    assert push_to_hub(tmp_path, "run") == "u"
    assert (calls["name"], calls["private"], calls["repo_id"]) == ("run", True, "me/run")
    assert (calls["folder_path"], calls["ignore_patterns"]) == (tmp_path, [".checkpoints/*"])


def test_without_a_login_the_run_stays_and_one_line_says_how(monkeypatch, tmp_path):
    def refuse(self, name, **options):
        raise LocalTokenNotFoundError("no token\nlong explanation")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(
        InputError, match=r"is finished in .*: no token; log in with `hf auth login`"
    ) as refused:
        push_to_hub(tmp_path, "run")
    assert "\n" not in str(refused.value)
