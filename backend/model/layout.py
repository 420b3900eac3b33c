"""The files of a checkpoint in the released layout."""

LANGUAGE_MODEL_CONFIG = "model_config.yaml"
SHARD_INDEX = "model.safetensors.index.json"
SHARDS = "model*.safetensors"
"""Pattern of the files that hold the language model's weights."""
SINGLE_SHARD = "model.safetensors"
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
AUDIO_TOWER_CONFIG = "qwen25OmniConfig/config.json"
AUDIO_TOWERS = (
    "audiointeraction_ChunkwisedEncoder.pth",
    "MiniOmni3_ChunkwisedEncoder.pth",
)
WORD_HEAD = "word_head.safetensors"
"""Optional, and our own addition: what writes down the words that are heard."""
EMBEDDED = "embedded"
"""What the checkpoint is called that this repository holds."""
RELEASED_MODEL = "zhifeixie/AudioInteraction"
"""Its id on the Hub."""
DEFAULT_REVISION = "main"
HUB_FILES = (
    SHARDS,
    SHARD_INDEX,
    LANGUAGE_MODEL_CONFIG,
    TOKENIZER,
    CONFIG,
    GENERATION_CONFIG,
    AUDIO_TOWER_CONFIG,
    *AUDIO_TOWERS,
    WORD_HEAD,
)
"""Patterns of what is fetched: all that is ever read."""
