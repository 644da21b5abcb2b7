from __future__ import annotations

from models import fresh_python


def test_a_file_is_written_without_pandas():
    code = """
    import sys
    sys.modules["pandas"] = sys.modules["sklearn"] = sys.modules["transformers"] = None
    import corefold.tables.atomic, corefold.tables.writing
    print("no pandas")
    """
    assert fresh_python(code).strip() == "no pandas"


def test_completion_takes_arrays_without_pandas_and_says_that_files_need_it():
    code = """
    import sys
    sys.modules["pandas"] = None
    from corefold import DeepMatrixCompletion
    try:
        import corefold.completion.files.reading
    except ImportError as error:
        print(error)
    """
    assert 'pip install "corefold[cli]"' in fresh_python(code)
