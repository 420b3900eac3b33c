"""The model: audio tower, language model, checkpoint loading."""
