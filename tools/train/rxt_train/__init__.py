"""Training of small Reactive Transformers that remember what they are told."""
