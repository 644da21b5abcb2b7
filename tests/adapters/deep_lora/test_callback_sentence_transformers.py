"""Deep LoRA in sentence-transformers' trainer, whose loss is its own and whose model wraps transformers' model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

import corefold
from adapters.deep_lora.trainers import with_old_names
from models import layers

sentence_transformers = pytest.importorskip("sentence_transformers")
pytestmark = with_old_names

PAIRS = [
    ("a man eats", "someone is eating"),
    ("it rains", "water falls"),
    ("she sings", "a song"),
    ("snow", "ice"),
]


@pytest.fixture
def encoder(tiny: Path):
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(tiny), device="cpu")
    encoder.add_adapter(corefold.DeepLoraConfig(r=2, width=8, target_modules=["query", "value"]))
    return encoder


def test_the_callback_finds_the_trainer_s_loss_and_the_export_the_model_inside(encoder, tmp_path):
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    pairs = Dataset.from_dict({"anchor": [a for a, _ in PAIRS], "positive": [b for _, b in PAIRS]})
    callback = corefold.BasesCallback(num_batches=1)
    SentenceTransformerTrainer(
        encoder,
        SentenceTransformerTrainingArguments(
            str(tmp_path / "checkpoints"), max_steps=2, per_device_train_batch_size=4, report_to="none",
            save_strategy="no", disable_tqdm=True, use_cpu=True,
        ),
        train_dataset=pairs, loss=MultipleNegativesRankingLoss(encoder), callbacks=[callback],
    ).train()  # fmt: skip
    assert callback.gradient_values
    assert all(layer.configs[name].initialized for layer in layers(encoder).values() for name in layer.r)
    texts = [a for a, _ in PAIRS]
    trained = encoder.encode(texts, convert_to_tensor=True)
    export = corefold.export_lora(encoder, tmp_path / "lora")
    assert export.rank == 2
    plain = SentenceTransformer(encoder[0].auto_model.name_or_path, device="cpu")
    plain.load_adapter(str(tmp_path / "lora"))
    torch.testing.assert_close(plain.encode(texts, convert_to_tensor=True), trained, atol=1e-5, rtol=1e-4)


def test_a_subclass_s_loss_is_the_one_that_the_bases_follow(llama, tmp_path):
    from peft import get_peft_model

    seen = []

    class OwnLoss(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            seen.append(num_items_in_batch)
            output = model(**inputs)
            return (output.loss * 2, output) if return_outputs else output.loss * 2

    model = get_peft_model(llama, corefold.DeepLoraConfig(r=2, width=4, target_modules=["q_proj"]))
    rows = [{"input_ids": torch.tensor([3, 4, 5, 6]), "labels": torch.tensor([3, 4, 5, 6])}] * 4
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, report_to="none", save_strategy="no", use_cpu=True, per_device_train_batch_size=4,
        remove_unused_columns=False,
    )  # fmt: skip
    OwnLoss(model, arguments, train_dataset=rows, callbacks=[corefold.BasesCallback(num_batches=1)]).train()
    assert len(seen) == 2  # one batch for the bases, one to train on
