"""Deep LoRA in transformers' Trainer: a sentiment classifier from 64 rows, and its export as plain LoRA.

python examples/trainer.py MODEL train.csv out
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import torch
from peft import PeftModel, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

import corefold

ROWS, BATCH_SIZE = 64, 16


def main(model_name: str, table: str, out: str, steps: int = 40) -> PeftModel:
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    rows = pd.read_csv(table).sample(ROWS, random_state=0)
    data = [
        {**tokenizer(text, truncation=True, max_length=64), "labels": label}
        for text, label in zip(rows["text"], rows["label"], strict=True)
    ]
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(model_name, num_labels=2)
    recipe = corefold.recipe(rows=ROWS, batch_size=BATCH_SIZE, steps=steps)
    config = corefold.DeepLoraConfig(**recipe.config, target_modules="all-linear", task_type="SEQ_CLS")
    model = get_peft_model(base, config)
    model.print_trainable_parameters()

    optimizer = torch.optim.AdamW(corefold.param_groups(model, **recipe.rates), eps=recipe.eps)
    trainer = Trainer(
        model,
        TrainingArguments(
            f"{out}/checkpoints",
            max_steps=recipe.steps,
            per_device_train_batch_size=BATCH_SIZE,
            max_grad_norm=0,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            label_names=["labels"],
            dataloader_pin_memory=torch.cuda.is_available(),
        ),
        train_dataset=data,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[corefold.BasesCallback(recipe.num_batches)],
        optimizers=(optimizer, None),
    )
    trainer.train()

    model.save_pretrained(out)
    print(corefold.export_lora(model, Path(out) / "lora", tolerance=0.01))
    return model


if __name__ == "__main__":
    main(*sys.argv[1:])
