from __future__ import annotations

import pytest

import corefold
from corefold.completion import DeepMatrixCompletion
from models import fresh_python


def test_the_top_package_has_the_estimator():
    assert corefold.DeepMatrixCompletion is DeepMatrixCompletion


def test_it_is_imported_without_peft():
    code = """
    import sys
    sys.modules["peft"] = sys.modules["transformers"] = None
    import corefold
    print(corefold.DeepMatrixCompletion.__name__, *sys.modules)
    """
    name, *modules = fresh_python(code).split()
    assert name == "DeepMatrixCompletion"
    assert "corefold.adapters" not in modules


@pytest.mark.parametrize("missing", ["numba", "sklearn"])
def test_what_is_missing_names_the_extra(missing):
    code = f"""
    import sys
    sys.modules["{missing}"] = None
    import corefold
    try:
        corefold.DeepMatrixCompletion
    except ImportError as error:
        print(error)
    """
    assert 'pip install "corefold[completion]"' in fresh_python(code)
