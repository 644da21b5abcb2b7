from __future__ import annotations

import copy
import json
import pickle
from dataclasses import dataclass, replace
from enum import Enum

import pytest
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils.peft_types import PeftType

import corefold
from corefold.adapters import DeepLoraConfig, DeepLoraModel
from corefold.adapters.host.internals import enum_member, saves_biases
from corefold.adapters.host.registry import register
from models import fresh_python

HEAVY = ["transformers", "peft", "numba", "scipy", "sklearn", "pandas", "matplotlib"]


class Colour(str, Enum):  # noqa: UP042 (as PeftType is made)
    RED = "RED"


def test_import_corefold_loads_nothing_heavy():
    printed = fresh_python("import sys, corefold; print(*sys.modules)").split()
    assert "torch" in printed
    assert not {*HEAVY} & {*printed}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    DeepLoraConfig(r=3, target_modules=["fc"], base_model_name_or_path="some/base").save_pretrained(folder)
    return folder


STRICT = """
import warnings
warnings.simplefilter("error")
"""
LOAD = """
import sys
answers["callback"] = corefold.BasesCallback.__name__
config = peft.PeftConfig.from_pretrained(sys.argv[1])
answers["loaded"] = [type(config).__name__, config.r]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def corefold_first(saved):
    """Answers of an interpreter that imports corefold, looks for PEFT, and lets transformers import PEFT."""
    code = """
import corefold, json, sys
from transformers.utils import is_peft_available
answers = {"available": is_peft_available(), "imported by looking": "peft" in sys.modules}
from transformers import Trainer
answers["by transformers"] = "peft" in sys.modules
import peft
answers["value"] = peft.PeftType("DEEPLORA").value
"""
    return json.loads(fresh_python(STRICT + code + LOAD, saved))


@pytest.fixture(scope="module")
def peft_first(saved):
    """Answers of an interpreter that lets transformers import PEFT, asks it for a way to add a method, and imports
    corefold."""
    code = """
import json, sys
from transformers import Trainer
answers = {"by transformers": "peft" in sys.modules}
import peft, peft.mapping, peft.utils.peft_types

modules = [peft, peft.mapping, peft.utils, peft.utils.peft_types]
answers |= {
    "ways": sorted({name for module in modules for name in dir(module) if "regist" in name.lower()}),
    "taken": "DEEPLORA" in peft.PeftType.__members__,
}

class NewMethod:
    prefix = "newmethod_"

try:
    peft.utils.register_peft_method(name="newmethod", config_cls=NewMethod, model_cls=NewMethod)
    answers["new method"] = "accepted"
except ValueError as error:
    answers["new method"] = str(error)

import corefold
"""
    return json.loads(fresh_python(STRICT + code + LOAD, saved))


@pytest.mark.parametrize("order", ["corefold_first", "peft_first"])
def test_peft_knows_deep_lora_in_either_order_of_import(order, request):
    assert request.getfixturevalue(order)["loaded"] == ["DeepLoraConfig", 3]


@pytest.mark.parametrize("order", ["corefold_first", "peft_first"])
def test_corefold_survives_transformers_importing_peft(order, request):
    answers = request.getfixturevalue(order)
    assert answers["by transformers"]  # else another import of it would be tested
    assert answers["callback"] == "BasesCallback"


def test_looking_for_peft_without_importing_it(corefold_first):
    assert corefold_first["available"]  # is_peft_available() asks for PEFT's spec
    assert not corefold_first["imported by looking"]
    assert corefold_first["value"] == "DEEPLORA"


def test_lazy_names_resolve():
    assert corefold.DeepLoraConfig is DeepLoraConfig
    for name in corefold.__all__:
        assert getattr(corefold, name).__name__ == name
        assert name in dir(corefold)
    with pytest.raises(AttributeError, match="nonsense"):
        corefold.nonsense  # noqa: B018


def test_missing_peft_names_the_extra():
    code = """
    import sys
    sys.modules["peft"] = None
    import corefold
    try:
        corefold.DeepLoraConfig
    except ImportError as error:
        print(error)
    """
    assert 'pip install "corefold[peft]"' in fresh_python(code)


def _is_a_full_member(enum, member, name):
    assert type(member) is enum
    assert isinstance(member, str)
    assert (member.name, member.value) == (name, name)
    assert enum(name) is enum[name] is getattr(enum, name) is member
    assert member in list(enum)
    assert len(enum) == len(list(enum)) == len(enum.__members__)
    assert member == name
    assert {member: 1}[name] == 1
    assert pickle.loads(pickle.dumps(member)) is member
    assert copy.deepcopy(member) is member
    assert json.dumps(member) == f'"{name}"'
    assert repr(member) == f"<{enum.__name__}.{name}: '{name}'>"


def test_deeplora_is_a_member_of_peft_type():
    _is_a_full_member(PeftType, PeftType.DEEPLORA, "DEEPLORA")
    assert [*PeftType].count("DEEPLORA") == 1
    assert PeftType("LORA") is PeftType.LORA


def test_enum_member_on_an_enum_of_our_own():
    blue = enum_member(Colour, "BLUE")
    _is_a_full_member(Colour, blue, "BLUE")
    assert [*Colour] == [Colour.RED, blue]
    assert enum_member(Colour, "BLUE") is blue
    assert enum_member(Colour, "RED") is Colour.RED
    assert len(Colour) == 2
    with pytest.raises(ValueError, match="GREEN"):
        Colour("GREEN")


def test_registering_twice_changes_nothing():
    before = dict(PEFT_TYPE_TO_CONFIG_MAPPING), dict(PEFT_TYPE_TO_TUNER_MAPPING), [*PeftType]
    register("deeplora", DeepLoraConfig, DeepLoraModel)
    assert (dict(PEFT_TYPE_TO_CONFIG_MAPPING), dict(PEFT_TYPE_TO_TUNER_MAPPING), [*PeftType]) == before
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.DEEPLORA] is DeepLoraConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.DEEPLORA] is DeepLoraModel


def test_peft_has_no_public_way_in_yet(peft_first):
    """The day this fails, its message says what to do."""
    ways, answer = peft_first["ways"], peft_first["new method"]
    assert not peft_first["taken"], (
        "PEFT now ships a method DEEPLORA, and register() leaves the name to it. If it is this method, let "
        "corefold.DeepLoraConfig be PEFT's own. If it is another, give ours another name (in adapters/__init__.py, and as "
        "prefix in deep_lora/model.py) and say in CHANGELOG.md that adapters saved so far load with older PEFT only."
    )
    assert ways == ["register_peft_method"], (
        f"PEFT has new functions: {ways}. If one lets a package add a method, call it in host/registry.py and keep "
        "enum_member() only for the versions without it."
    )
    assert answer.startswith("Unknown PEFT type NEWMETHOD"), (
        f"register_peft_method() now says {answer!r} to a name outside PeftType. If it is accepted, host/registry.py "
        "needs enum_member() only for older versions: call register_peft_method() alone from this version on."
    )


def test_a_deeplora_of_pefts_own_is_left_alone(monkeypatch):
    tables, members = (PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING), [*PeftType]
    for table in tables:
        monkeypatch.setitem(table, PeftType.DEEPLORA, "theirs")
    register("deeplora", DeepLoraConfig, DeepLoraModel)
    assert [table[PeftType.DEEPLORA] for table in tables] == ["theirs", "theirs"]
    assert [*PeftType] == members


def test_config_survives_json_and_pickle(tmp_path):
    config = DeepLoraConfig(
        r=6, depth=2, init_scale=0.05, bases="spectral", basis_lr_ratio=0.01, target_modules=["a", "b"],
        exclude_modules=["c"], rank_pattern={"a": 3}, modules_to_save=["head"],
        bias="deeplora_only" if saves_biases() else "none",
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() | {"inference_mode": False} == config.to_dict()
    assert loaded.peft_type is PeftType.DEEPLORA
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config) == copy.copy(config) == replace(config) == config


@dataclass
class Derived(DeepLoraConfig):
    more: int = 0


def test_the_paper_s_form_is_one_word():
    config = DeepLoraConfig.paper(target_modules=["a"], r=4)
    assert (config.bases, config.init_scale, config.basis_lr_ratio, config.depth) == (
        "gradient",
        1e-3,
        1e-2,
        3,
    )
    assert (config.r, config.target_modules) == (4, {"a"})


def test_unknown_settings_are_named():
    with pytest.raises(TypeError, match=r"has no setting alpha, rank;.*pip install --upgrade"):
        DeepLoraConfig(rank=8, r=4, alpha=2)
    with pytest.raises(TypeError, match="has no setting rank"):
        replace(DeepLoraConfig(), rank=8)
    config = Derived(r=3, more=2)
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == replace(config, r=3) == config
    with pytest.raises(TypeError, match="has no setting less"):
        Derived(less=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"r": 0}, "positive integer"),
        ({"r": -2}, "positive integer"),
        ({"rank_pattern": {"q": 0}}, "'q'"),
        ({"depth": 0}, "depth"),
        ({"init_scale": 0.0}, "init_scale"),
        ({"init_scale": -0.1}, "init_scale"),
        ({"init_scale": float("nan")}, "init_scale"),
        ({"basis_lr_ratio": -1e-3}, "basis_lr_ratio"),
        ({"bases": "pca"}, "gradient, spectral, random"),
        ({"target_modules": ".*", "layers_to_transform": [0]}, "layers_to_transform"),
        ({"target_modules": ".*", "layers_pattern": "layers"}, "layers_pattern"),
        ({"target_modules": ["q"], "layers_pattern": "layers"}, "layers_to_transform"),
    ],
)
def test_bad_configurations_say_what_is_wrong(options, says):
    with pytest.raises(ValueError, match=says):
        DeepLoraConfig(**options)
