"""Deep LoRA: its settings, its layers, its bases from data, and how it trains."""
