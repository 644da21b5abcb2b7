"""Floor 3: methods beside each other on one's own data, on the training path of `corefold.finetune`."""
