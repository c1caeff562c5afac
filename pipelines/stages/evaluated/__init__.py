"""The parts of the stage `evaluate`: what it measures of distillation and of DataDream, each beside its controls."""
