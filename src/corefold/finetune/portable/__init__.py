"""Runs as other tools load them: PEFT, transformers' pipelines and servers, sentence-transformers and SetFit.

A run's model is one of three, and each has one home outside corefold:

| head of the task | home | its files |
| --- | --- | --- |
| own | `AutoModelForSequenceClassification` | the head among the weights, its classes in config.json |
| mean, cosine | sentence-transformers, SetFit | modules.json, pooling, the head as a `Dense` module, model_head.pkl |
| lm | `AutoModelForCausalLM` | nothing beside the weights |

What a format cannot hold is a line of `limits`, printed where the folder is written and repeated in its model card.
"""
