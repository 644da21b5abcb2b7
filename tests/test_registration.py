"""`import corefold` never breaks the user's own `import peft`: a registration that fails warns and leaves PEFT usable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models import fresh_python

ORDERS = ["import corefold, peft", "import peft, corefold"]
# A fake PEFT by its files, and the error that Deep LoRA's registration runs into.
INCOMPATIBLE = {
    "bare": ({"__init__.py": "__version__ = '9.9'"}, "ModuleNotFoundError: No module named 'peft.tuners'"),
    "refusing": (
        {"__init__.py": "__version__ = '9.9'", "tuners.py": "raise RuntimeError('not\\nhere')"},
        "RuntimeError: not here",
    ),
}


def run(imports: str, *, before: str = "", between: str = "", after: str = "") -> dict[str, object]:
    """Warnings and peft's version from a new interpreter that imports both; `between` runs after the first import."""
    first, second = (f"import {name}" for name in imports.removeprefix("import ").split(", "))
    lines = [
        "import json, sys, warnings",
        "caught = []",
        "warnings.showwarning = lambda message, category, *place: caught.append((category.__name__, str(message)))",
        "warnings.simplefilter('always', RuntimeWarning)",
        before,
        first,
        between,
        second,
        "result = None",
        after,
        "print(json.dumps({'warnings': caught, 'peft': peft.__version__, 'result': result}))",
    ]
    return json.loads(fresh_python("\n".join(lines)).splitlines()[-1])


def write_peft(folder: Path, files: dict[str, str]) -> None:
    (folder / "peft").mkdir()
    for name, code in files.items():
        (folder / "peft" / name).write_text(code)


def only_warning(outcome: dict[str, object]) -> str:
    [(category, message)] = outcome["warnings"]
    assert category == "RuntimeWarning"
    assert "\n" not in message
    assert message.startswith("corefold cannot add Deep LoRA to PEFT (corefold ")
    assert 'pip install --upgrade "corefold[peft]"' in message
    return message


@pytest.mark.parametrize("imports", ORDERS)
@pytest.mark.parametrize("kind", INCOMPATIBLE)
def test_an_incompatible_peft_still_imports(imports, kind, tmp_path):
    files, error = INCOMPATIBLE[kind]
    write_peft(tmp_path, files)
    outcome = run(
        imports,
        before=f"sys.path.insert(0, {str(tmp_path)!r})",
        after="try:\n    corefold.DeepLoraConfig\nexcept Exception as error:\n    result = type(error).__name__",
    )
    assert outcome["peft"] == "9.9"
    message = only_warning(outcome)
    assert "peft 9.9" in message
    assert error in message
    assert outcome["result"] == error.split(":")[0]  # corefold's own names still say what is wrong


def test_a_peft_whose_enum_takes_no_member_stays_usable():
    freeze = """
from corefold._when_imported import when_imported

def freeze():
    enum = sys.modules["peft.utils.peft_types"].PeftType
    enum._member_names_ = tuple(enum._member_names_)

when_imported("peft.utils.peft_types", freeze)
"""
    use = """
import torch

names = [member.value for member in peft.PeftType]
config = peft.LoraConfig(r=2, target_modules=["0"])
model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 3)), config)
result = ["LORA" in names, "DEEPLORA" in names, list(model(torch.ones(1, 4)).shape)]
"""
    outcome = run("import corefold, peft", between=freeze, after=use)
    assert "AttributeError" in only_warning(outcome)
    assert outcome["result"] == [True, False, [1, 3]]


def test_reloading_either_registers_once():
    reloads = """
from importlib import reload

reload(peft), reload(corefold)
result = [member.value for member in peft.PeftType].count("DEEPLORA")
"""
    outcome = run("import corefold, peft", after=reloads)
    assert outcome["warnings"] == []
    assert outcome["result"] == 1


def test_reloading_corefold_beside_an_incompatible_peft(tmp_path):
    write_peft(tmp_path, INCOMPATIBLE["bare"][0])
    outcome = run(
        "import corefold, peft",
        before=f"sys.path.insert(0, {str(tmp_path)!r})",
        after="from importlib import reload\nreload(peft), reload(corefold)",
    )
    assert outcome["peft"] == "9.9"
    assert [category for category, _ in outcome["warnings"]] == ["RuntimeWarning"] * 2
