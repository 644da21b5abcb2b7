"""Texts from data, few rows: Deep LoRA and LoRA on SmolLM2-135M, judged by BLEU, ROUGE-L and METEOR.

    pip install --requirement packages/e2e.txt   # the metrics; METEOR needs Java
    python -m reproduce.e2e.run --model SMOLLM2 --data ../shared/data [--samples 16 256] [--seeds 3] [--judged 40]

Every method gets the same rows in the same batches at one seed. Texts are generated likeliest token by token, for
meanings of the development file, each judged against all of its references. The base model is in bfloat16.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import torch
from reproduce.common import Cell, Result
from reproduce.e2e.shown import FORMS, claims, figure

from corefold.finetune import RunConfig
from corefold.finetune.data import draw
from corefold.finetune.encoding import encode_prompts
from corefold.finetune.folder import Run
from corefold.finetune.methods import METHODS
from corefold.finetune.prediction import generate
from corefold.finetune.run_data import SourceTables, prepare_data, read_tables, with_absolute_paths
from corefold.finetune.trainer import prepare

HERE = Path(__file__).parent
DRAWN = 12345  # seed of the meanings that judge
GENERATED, TOGETHER = 60, 20  # tokens at most, and rows at a time


def main() -> None:
    given = _arguments()
    torch.set_num_threads(given.threads)
    result = Result(given.out / "result.json", __doc__ or "")
    config = with_absolute_paths(
        RunConfig(
            model=given.model,
            train=f"{given.data}/e2e/train.csv",
            eval=f"{given.data}/e2e/dev.csv",
            text="meaning",
            label="target",
            task="causal-lm",
            dtype="bfloat16",
            batch_size=8,
            max_length=128,
        )
    )
    tables = read_tables(config)
    for seed in range(given.seeds):
        for samples in given.samples:
            for form in given.only:
                steps = given.steps or min(64, max(32, samples // 4))
                run = replace(config, samples=samples, seed=seed, steps=steps)
                if METHODS[FORMS[form]["method"]].trains:
                    name = f"{form}, {samples} rows, seed={seed}"
                elif seed == 0:
                    name, samples = form, 0
                else:
                    continue
                cell = result.run(name, lambda f=form, c=run: fitted(f, c, tables, given.judged))
                print(f"{name}: {cell['scores']}", flush=True)
    result.claims = claims(result.cells)
    result.write()
    figure(given.out / "figure.svg", result.cells)


def fitted(form: str, config: RunConfig, tables: SourceTables, judged: int) -> Cell:
    """The scores of a form trained on some rows, and what it wrote for the first meanings."""
    settings: dict[str, Any] = {**FORMS[form]}
    method = METHODS[settings.pop("method")]
    config = replace(config, **settings)
    assert tables.held_out is not None  # noqa: S101 - for the type checker
    train = draw(tables.train, config.samples, config.seed, None, "e2e")
    references = tables.held_out.groupby("meaning")["target"].apply(list).sample(judged, random_state=DRAWN)
    rows = tables.held_out[tables.held_out["meaning"].isin(references.index)].drop_duplicates("meaning")
    data = prepare_data(config, tables.task, train, rows, method)
    with tempfile.TemporaryDirectory() as folder:
        fit = prepare(data, Path(folder))
        seconds = fit.train()
        found = fit.evaluate()
    run = Run(data.task, fit.adapted, fit.model.eval(), data.tokenizer)
    prompts = encode_prompts(data.task, data.tokenizer, pd.DataFrame({"meaning": references.index}))
    texts = list(generate(run, prompts, TOGETHER, GENERATED, progress=False))
    return {
        "form": form,
        "samples": len(train) if method.trains else 0,
        "seed": config.seed,
        "scores": {**scores(texts, list(references)), "perplexity": found["perplexity"]},
        "lr": data.settings.lr if method.trains else None,
        "steps": data.settings.steps if method.trains else 0,
        "parameters": fit.trainable_parameters(),
        "train_seconds": seconds,
        "judged": judged,
        "examples": [
            {"meaning": meaning, "text": text}
            for meaning, text in zip(references.index[:3], texts, strict=False)
        ],
    }


def scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Mapping[str, float]:
    """In percent: BLEU (sacrebleu), the mean of the best ROUGE-L over references (rouge-score), METEOR 1.5 (COCO's)."""
    import sacrebleu
    from pycocoevalcap.meteor.meteor import Meteor
    from rouge_score.rouge_scorer import RougeScorer

    texts = [" ".join(text.split()) for text in texts]
    most = max(map(len, references))
    columns = [[each[i] if i < len(each) else None for each in references] for i in range(most)]
    rouge = RougeScorer(["rougeL"])
    best = [
        rouge.score_multi(list(given), text)["rougeL"].fmeasure
        for text, given in zip(texts, references, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        meteor, _ = Meteor().compute_score(
            {i: list(given) for i, given in enumerate(references)},
            {i: [text] for i, text in enumerate(texts)},
        )
    return {
        "BLEU": sacrebleu.corpus_bleu(texts, columns).score,
        "ROUGE-L": 100 * fmean(best),
        "METEOR": 100 * meteor,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, help="SmolLM2-135M, a folder, a gguf file or its name on the hub"
    )
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--samples", nargs="+", type=int, default=[16, 256])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--judged", type=int, default=40, help="meanings")
    parser.add_argument("--steps", type=int, help="default: a quarter of the rows, from 32 to 64")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
