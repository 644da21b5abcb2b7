"""The model card beside a saved adapter."""

from __future__ import annotations

from huggingface_hub import ModelCard
from peft import PeftConfig

from corefold.adapters import export_lora
from models import adapter_state, layers, load, same_tensors, wrap


def card(folder):
    return ModelCard.load(folder / "README.md")


def test_card_says_how_to_load(tmp_path):
    model = wrap(load("minilm"), task_type="SEQ_CLS")
    model.save_pretrained(tmp_path)
    text = card(tmp_path).text
    assert text.count("import corefold  # makes Deep LoRA known to PEFT") == 1
    assert "AutoModelForSequenceClassification" in text
    assert "More Information Needed" not in text
    data = card(tmp_path).data
    assert data.library_name == "peft"
    assert {"corefold", "deep-lora"} <= {*data.tags}
    assert "num_labels" in text
    snippet = text.split("```python\n")[1].split("```")[0].replace("PATH_TO_THIS_FOLDER", str(tmp_path))
    snippet = snippet.replace('")  # with the num_labels', '", num_labels=3)  #')
    namespace: dict = {}
    exec(snippet, namespace)
    assert same_tensors(adapter_state(namespace["model"]), adapter_state(model))


def test_card_beside_a_named_adapter(llama, tmp_path):
    wrap(llama, adapter_name="mine").save_pretrained(tmp_path)
    assert "import corefold" in card(tmp_path / "mine").text
    assert PeftConfig.from_pretrained(tmp_path / "mine").r == 4


def test_saving_twice_writes_the_same_card(llama, tmp_path):
    model = wrap(llama)
    model.save_pretrained(tmp_path)
    first = (tmp_path / "README.md").read_text()
    model.save_pretrained(tmp_path)
    again = (tmp_path / "README.md").read_text()
    assert again.count("How to load this adapter") == again.count("import corefold  #") == 1
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == again
    assert first.split("---")[2].strip() in again


def test_an_edited_card_keeps_its_text(llama, tmp_path):
    mine = "---\nlicense: mit\ntags:\n- poetry\n---\n\n# My adapter\n\nIt writes sonnets.\n"
    (tmp_path / "README.md").write_text(mine)
    model = wrap(llama)
    for _ in range(2):
        model.save_pretrained(tmp_path)
        text = (tmp_path / "README.md").read_text()
        assert "# My adapter\n\nIt writes sonnets." in text
        assert text.count("How to load this adapter") == 1
        assert card(tmp_path).data.license == "mit"


def test_a_card_half_filled_in_keeps_what_was_filled_in(llama, tmp_path):
    from huggingface_hub import ModelCardData

    form = str(ModelCard.from_template(ModelCardData()))
    assert "[More Information Needed]" in form
    (tmp_path / "README.md").write_text(form.replace("[More Information Needed]", "Trained on sonnets.", 1))
    wrap(llama).save_pretrained(tmp_path)
    text = card(tmp_path).text
    assert "Trained on sonnets." in text
    assert text.count("How to load this adapter") == 1


def test_an_export_does_not_ask_for_corefold(llama, tmp_path):
    export_lora(wrap(llama), tmp_path)
    text = card(tmp_path).text
    assert "import corefold" not in text
    assert "corefold is not needed" in text
    assert "lora" in card(tmp_path).data.tags
    assert "deep-lora" not in card(tmp_path).data.tags
    assert layers(llama)
